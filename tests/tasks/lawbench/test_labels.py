"""Reading charges out of text: odd punctuation, names within names, replies that name several."""

import pytest

from tasks.lawbench.labels import letters, reader
from tests.tasks.lawbench.corpus import CHARGES


def test_charges_differ_in_their_letters() -> None:
    assert len({letters(charge) for charge in CHARGES}) == len(CHARGES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("盗窃", ["盗窃"]),
        ("盗窃罪。", ["盗窃"]),
        ("盗 窃\u200b罪", ["盗窃"]),
        ("走私、贩卖、运输、制造毒品罪", ["[走私、贩卖、运输、制造]毒品"]),
        ("【走私，贩卖，运输，制造】毒品", ["[走私、贩卖、运输、制造]毒品"]),
        ("3. [生产、销售]假药 (2/10)", ["[生产、销售]假药"]),
        ("合同诈骗", ["合同诈骗"]),
        ("盗窃、抢夺枪支", ["[盗窃、抢夺]枪支"]),
        ("诈骗或合同诈骗，也许盗窃", ["诈骗", "合同诈骗", "盗窃"]),
        ("theft", []),
        ("", []),
        ("\x00\ud800盗窃", ["盗窃"]),
    ],
)
def test_charges_named_in_a_text_are_found(text: str, found: list[str]) -> None:
    assert list(reader(CHARGES).named(text)) == found


@pytest.mark.parametrize(
    ("reply", "charge"),
    [
        ("他偷了东西。\n\n盗窃\n \n", "盗窃"),
        ("可能是诈骗。\n答案：盗窃罪", "盗窃"),
        ("盗窃\n我不确定", None),
        ("盗窃或抢劫", None),
        ("", None),
        ("\n\n", None),
        ("、".join(CHARGES), None),
        ("x" * 1_000_000 + "盗窃", "盗窃"),
    ],
)
def test_reply_states_the_single_charge_of_its_last_line(reply: str, charge: str | None) -> None:
    assert reader(CHARGES).stated(reply) == charge

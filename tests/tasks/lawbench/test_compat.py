"""The published metric, against a plain join written otherwise, and what the join refuses."""

import random
from typing import Any

import pytest

from tasks.lawbench.compat import published_accuracy
from tests.tasks.lawbench.corpus import CHARGES


def joined(answers: list[tuple[int, Any]], truth: dict[int, str]) -> float:
    """Compute `published_accuracy` by nested loops over rows: truth left-joined to answers, equal texts counted."""
    rows = [(label, [given for number, given in answers if number == wanted]) for wanted, label in truth.items()]
    return sum(1 for label, given in rows if given and given[0] == label) / len(rows)


@pytest.mark.parametrize("seed", range(20))
def test_published_accuracy_agrees_with_a_plain_join(seed: int) -> None:
    rng = random.Random(seed)
    truth = {number: rng.choice(CHARGES) for number in range(rng.randrange(1, 200))}
    strange = [None, "", "盗窃 ", "盗窃罪", 3, ["盗窃"], *CHARGES]
    answers = [(n, rng.choice([label, *strange])) for n, label in truth.items() if rng.random() < 0.8]
    rng.shuffle(answers)
    assert published_accuracy(answers, truth) == pytest.approx(joined(answers, truth), abs=1e-6)


def test_published_accuracy_matches_values_by_hand() -> None:
    truth = {0: "盗窃", 1: "抢劫", 2: "诈骗", 3: "放火"}
    assert published_accuracy([(2, "诈骗"), (0, "盗窃"), (1, "盗窃")], truth) == 0.5
    assert published_accuracy([], truth) == 0.0


@pytest.mark.parametrize(
    ("answers", "words"), [([(0, "盗窃"), (0, "抢劫")], "two answers"), ([(9, "盗窃")], "no case")]
)
def test_duplicate_and_unknown_ids_are_an_error(answers: list[tuple[int, str]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        published_accuracy(answers, {0: "盗窃"})

"""Test that texts of agents are shown in the Prefect UI and do nothing there."""

import re

import pytest

from sia_core.domain.candidate import Candidate
from sia_core.domain.lineage import Decision, Node
from sia_core.domain.patch import Edit
from sia_core.report.markdown import cell, decision_markdown, proposal_markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "a\n\n<img src=x onerror=alert(1)>\n\n[click](javascript:alert(1))",
    "```\n<b>out</b>\n```\n# a heading",
    "``````\n````\n<i>",
    "~~~\n</code></pre><iframe src='//evil'>",
    "| a | b |\n|---|---|\n\n---\n> quoted",
    "\u202egnp.exe \x1b[31mred\u2028next",
    "`tick` ``ticks`` \\` `",
    "![](http://evil/?leak) https://evil <https://evil>",
]


def outside_code(markdown: str) -> str:
    """The text without its code, after CommonMark: fenced blocks by line, then spans within lines."""
    kept, fence = [], ""
    for line in markdown.split("\n"):
        opening = re.match(r"^ {0,3}(`{3,})", line)
        if fence:
            if opening and len(opening[1]) >= len(fence) and not line.strip("` "):
                fence = ""
        elif opening:
            fence = opening[1]
        else:
            kept.append(re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line))
    assert not fence, "a block that is not closed"
    return "\n".join(kept)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_an_agent_stays_in_its_code_block(text: str) -> None:
    decision = Decision(
        "harness",
        0,
        text,
        parent_reason=text,
        agent=text,
        hypothesis=text,
        category=text,
        falsifier=text,
        refused=(text,),
        instead_of=text,
        edits=(Edit(text, text),),
        knobs={"menu": text},
        cites=(text,),
    )
    node = Node(1, 0, Candidate("h"), "harness", False, decision=decision, failure=text, generation=1)
    for shown in (decision_markdown(node, text), proposal_markdown(decision, text)):
        left = outside_code(shown)
        assert not re.search(r"[<>\[\]|`~]|https?:|^#(?!# (Generation|Lever))", left, flags=re.MULTILINE), left
        assert shown.isascii() or not set(shown) & set("\u202e\u2028\x1b")


def test_decision_in_another_agents_place_says_so() -> None:
    decision = Decision("harness", 0, "r", "rules", instead_of="openai:m", refused=("openai:m: no decision",))
    said = proposal_markdown(decision, "")
    assert "**Decided in place of `openai:m`**" in said and "openai:m: no decision" in said


def test_long_text_is_cut_and_says_so() -> None:
    node = Node(1, 0, Candidate("h"), "harness", False, generation=1)
    assert len(decision_markdown(node, "x" * 1_000_000)) < 30_000
    # What a person is to approve is shown whole.
    assert "x" * 1_000_000 in proposal_markdown(Decision("harness", 0, "why", agent="rules"), "x" * 1_000_000)


@pytest.mark.parametrize("text", HOSTILE)
def test_table_cell_is_inert(text: str) -> None:
    assert outside_code(cell(f"no: {text}"[:64])).strip() == ""


@pytest.mark.parametrize("text", ["harness (menu=rich)", "0.0752 [0.0606, 0.0887]", "no: import: no-op", "3 of 4", ""])
def test_plain_cell_stays_plain(text: str) -> None:
    assert cell(text) == text

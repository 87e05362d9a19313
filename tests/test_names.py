"""A test is named subject_condition_outcome: `test_feedback_must_not_contain_gold_answer`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
BEGINNINGS = frozenset(
    {
        *("the", "a", "an", "it", "its", "what", "whether", "who", "whoever", "one", "no", "that", "of"),
        *("as", "they", "each", "both", "nobody", "nothing"),
    }
)
"""First words that come before a subject or replace it."""
LEAST_WORDS = 3


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each test function, those of test classes among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name


def fault(name: str) -> str:
    """Describe how a name breaks the rule; empty for a valid name."""
    words = name.removeprefix("test_").split("_")
    if words[0] in BEGINNINGS:
        return f"begins with {words[0]!r}: begin with the subject"
    if len(words) < LEAST_WORDS:
        return f"has {len(words)} words: name subject, condition and outcome in {LEAST_WORDS} words or more"
    return ""


@pytest.mark.parametrize("path", sorted(ROOT.rglob("test_*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_state_subject_condition_and_outcome(path: Path) -> None:
    found = [f"{path.name}:{line}: {name} {fault(name)}" for line, name in names(path) if fault(name)]
    assert not found, "\n".join(found)


def test_names_are_unique_within_a_module() -> None:
    """A second function of the same name would hide the first from pytest."""
    for path in ROOT.rglob("test_*.py"):
        found = [name for _, name in names(path)]
        assert len(found) == len(set(found)), path


@pytest.mark.parametrize(
    "name",
    [
        "test_the_second_is_told_who_and_what_to_do",
        "test_what_cannot_be_meant_is_refused",
        "test_nobody_there",
        "test_it_comes_back",
        "test_hardened",
    ],
)
def test_rule_refuses_riddles_and_short_names(name: str) -> None:
    assert fault(name)


def test_rule_accepts_plain_names() -> None:
    assert not fault("test_feedback_must_not_contain_gold_answer")
    assert not fault("test_another_machine_is_replaced_once_it_is_silent")

"""Docstrings are read by newcomers: each begins with a verb or a noun, not with a free relative or a genitive."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("sia_core", "flows", "infra", "tasks", "tests", "bench")
BEGINNINGS = ("What", "Whether", "Of", "As", "That", "Those")
"""First words that make a reader look for the noun."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, those below fields among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
                yield one.lineno, one.value.value.strip()


def begins_badly(text: str) -> bool:
    """Tell a text that begins with one of the words, or with `The same`."""
    words = text.split(maxsplit=2)
    return bool(words) and (words[0].strip(",.:;") in BEGINNINGS or words[:2] == ["The", "same"])


def is_seed_harness(path: Path) -> bool:
    """Tell files of a seed harness: recorded decisions name their digest."""
    parts = path.relative_to(ROOT).parts
    return parts[0] == "tasks" and "harness" in parts


@pytest.mark.parametrize("top", TOPS)
def test_docstrings_begin_with_a_verb_or_a_noun(top: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted((ROOT / top).rglob("*.py"))
        if not is_seed_harness(path)
        for line, text in texts(path)
        if begins_badly(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "What a verb begins before it imports MLflow and Prefect.",
        "Whether the run ends at a plateau, before its generations are used up.",
        "Of the gate's score.",
        "As `Source.left`.",
        "That of a local policy, else what the adapter says.",
        "Those of this process.",
        "The same under the seed candidate, with the same seeds.",
        "What is asked in the Prefect UI.",
        "Of all rungs.",
        "As `Node.draft`.",
    ],
)
def test_beginning_rule_refuses_free_relatives(text: str) -> None:
    assert begins_badly(text)


def test_beginning_rule_takes_plain_sentences() -> None:
    assert not begins_badly("Stop early once recent generations show no further gain.")
    assert not begins_badly("The sealed test in two lines of text.")

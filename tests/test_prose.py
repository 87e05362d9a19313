"""Hold pages, docstrings and messages to the house rules: how a docstring begins, words to avoid, semicolons."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.prose import (
    CODE,
    PAGES,
    ROOT,
    avoided,
    crowded,
    docstring_paragraphs,
    docstrings,
    paragraphs,
    sources,
    strings,
    words_to_avoid,
)

TOPS = ("sia_core", "flows", "infra", "tasks", "tests", "bench")
BEGINNINGS = ("What", "Whether", "Of", "As", "That", "Those")
"""First words that make a reader look for the noun."""


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
        for line, text in docstrings(path.read_text())
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


def packages() -> list[str]:
    """List the directories whose Python files are checked together."""
    return sorted({str(path.relative_to(ROOT).parent) for path in sources()})


def within(package: str) -> Iterable[Path]:
    """Files directly in a directory."""
    return (path for path in sources() if str(path.relative_to(ROOT).parent) == package)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_hold_no_words_to_avoid(page: Path) -> None:
    assert words_to_avoid(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_one_semicolon_a_paragraph(page: Path) -> None:
    found = crowded(paragraphs(page.read_text()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", packages())
def test_docstrings_and_messages_hold_no_words_to_avoid(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {', '.join(words)}"
        for path in within(package)
        for line, text in strings(path.read_text())
        if (words := words_to_avoid(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", packages())
def test_docstrings_have_one_semicolon_a_paragraph(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {paragraph}"
        for path in within(package)
        for line, text in docstrings(path.read_text())
        for paragraph in crowded(docstring_paragraphs(text))
    ]
    assert not found, "\n".join(found)


def test_checks_see_pages_and_packages() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/agents.md", "bench/README.md", "tasks/trimul/README.md"} <= names
    assert set(CODE) <= {package.split("/")[0] for package in packages()}
    assert {"mend", "told", "go on", "dearer"} <= set(avoided())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mend it, then check again.", ["mend"]),
        ("The agent is told before it decides.", ["told"]),
        ("`sia resume` goes\n  on with the run.", ["goes on"]),
        ("Whoever holds a lease writes, whatever happens.", ["whoever", "whatever"]),
        ("The process died without a word.", ["without a word"]),
        ("| a foreign import | a hasty retry |", ["foreign", "hasty"]),
    ],
)
def test_words_to_avoid_are_found(text: str, words: list[str]) -> None:
    assert words_to_avoid(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "Resume the run; `told` and `go on` are names here.",
        "A recommended amendment of the folding station.",
        "Rows refer to each other by a foreign key.",
        "See [agents](agents.md#what-it-is-told).",
        "Before.\n\n```\nsia: mend it\n```\n\nAfter.",
    ],
)
def test_other_words_pass(text: str) -> None:
    assert words_to_avoid(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "One; two; three.",
        "One; two,\nand three; four.",
        "# Heading\nOne; two; three.",
        "- One; two; three.\n- Four.",
        "| cell | one; two; three |",
    ],
)
def test_crowded_paragraphs_are_found(text: str) -> None:
    assert len(crowded(paragraphs(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "One; two.\n\nThree; four.",
        "- One; two.\n- Three; four.",
        "| one; two | three; four |",
        "# One; two\nThree; four.",
        "`a; b; c` is code.\n\n```\na; b; c\n```",
    ],
)
def test_single_semicolon_a_paragraph_passes(text: str) -> None:
    assert crowded(paragraphs(text)) == []


def test_entries_of_a_section_are_paragraphs_of_their_own() -> None:
    text = "Do it.\n\n    Args:\n        one: first; second.\n        two: third; fourth."
    assert crowded(docstring_paragraphs(text)) == []
    assert len(crowded(docstring_paragraphs(text.replace("second", "second; third")))) == 1


def test_strings_with_a_space_are_read() -> None:
    assert [text for _, text in strings('"""Say it."""\nx = "told"\ny = f"{x} is told"\n')] == ["Say it.", " is told"]

"""docs/operations.md names the test of every command, and these names must be right."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()


def commands() -> list[str]:
    """Lines of the blocks without a language."""
    found, inside = [], ""
    for line in TEXT.splitlines():
        if line.startswith("```"):
            inside = "" if inside else line
        elif inside == "```":
            found.append(line)
    return found


@pytest.mark.parametrize("line", [line for line in commands() if not line.startswith("export ")])
def test_every_command_is_marked(line: str) -> None:
    assert re.search(r"# .*\((test: \S+|not run here|run by hand)", line), line


def test_tests_named_in_operations_exist() -> None:
    named = {name for names in re.findall(r"test: ([^;)]*)", TEXT) for name in re.findall(r"[\w/]+\.py", names)}
    assert len(named) > 8
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_files_named_in_operations_exist() -> None:
    for path in re.findall(r"\binfra/[\w./-]+|docker-compose\.yml", TEXT):
        assert (ROOT / path.rstrip(".")).exists() or (ROOT / "tests" / path).exists(), path

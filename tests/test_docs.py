"""Test that commands, options and linked files of the documents exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from sia_core.cli.main import app
from tests.tutorials import NOT_RUN, RUN, SHOWN, TUTORIALS, blocks, to_run

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_SPAN = re.compile(r"`(sia [^`\n]+)`")
_BLOCK = re.compile(r"^```(?:shell|sh|console)?(?: [^\n]*)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def commands(page: Path) -> Iterator[str]:
    """Every `sia ...` in code spans and shell blocks."""
    text = page.read_text()
    yield from _SPAN.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for block in _BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line.partition(" #")[0] for line in lines if re.match(r"(\$ )?sia [a-z]", line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    wrong = []
    for text in commands(page):
        words = shlex.split(text.removeprefix("$ "), posix=False)[1:]
        command = group.commands.get(words[0]) if re.fullmatch("[a-z]+", words[0]) else group
        if isinstance(command, TyperGroup) and command is not group and len(words) > 1:
            command = command.commands.get(words[1])
        options = {option for one in (command.params if command else ()) for option in (*one.opts, *one.secondary_opts)}
        unknown = [word for word in words if word.startswith("--") and word.split("=")[0].strip(",;") not in options]
        if command is None or (unknown and unknown != ["--help"]):
            wrong.append(f"{text}: {'no such command' if command is None else unknown}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_to_exist(page: Path) -> None:
    targets = [target for target in _LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_blocks_of_tutorials_are_run_or_say_that_they_are_not(page: Path) -> None:
    assert [block for block in blocks(page) if block.kind not in (*RUN, *SHOWN, NOT_RUN)] == []
    assert len(to_run(page)) >= 3
    assert page.read_text().count("```") == 2 * len(blocks(page)), "a block that the search does not see"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_begin_after_an_empty_line(page: Path) -> None:
    """Check for the empty line that the site's Markdown needs, unlike that of a code host."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    item = r"(?:[-*]|\d+\.) "
    assert re.findall(rf"^(?!{item}|\s|#)(.+)\n(?={item})", text, re.MULTILINE) == []


def test_search_finds_unknown_commands_and_dead_links(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shell = '```shell\nsia run x --wings\n```\n```shell title="later"\nsia walk\n```\n'
    page.write_text(f"`sia fly --high` and [a](no.md)\n{shell}")
    assert [*commands(page)] == ["sia fly --high", "sia run x --wings", "sia walk"]
    for check in (test_commands_in_the_docs_exist, test_files_that_are_linked_to_exist):
        with pytest.raises(AssertionError):
            check(page)

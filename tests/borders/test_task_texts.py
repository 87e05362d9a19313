"""Text files as other editors write them, and printed commands with paths that a shell would split."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.cli.init import init
from sia_core.domain import text_files
from sia_core.domain.command import command, quoted
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import HarnessError, TaskError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.patch import Block, Edit, apply_edits
from sia_core.domain.task import Task
from sia_core.host.disk import cannot_write
from sia_core.report.command import run_command
from tests.factories import TOY

ROOT = Path(__file__).resolve().parents[2]
BOM = b"\xef\xbb\xbf"
STYLES = {
    "BOM": lambda data: BOM + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "BOM and CRLF": lambda data: BOM + data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "mixed ends": lambda data: data.replace(b"\n", b"\r\n", 2).replace(b"\n\n", b"\r\r", 1),
}
FILES = {
    "harness.toml": b'name = "h"\n# kept\n[knobs.n]\nvalue = 1\nrange = [1, 4]\n',
    "agent.py": b"async def solve(problem, ctx):\n    return 1\n",
    "prompts/first.md": b"Say {x}.\n\nTwice.\n",
}
SOLVE = "async def solve(problem, ctx):"
PLAIN = Harness.from_files(FILES)


def harness(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def toy(folder: Path) -> Path:
    return Path(shutil.copytree(TOY, folder / "task", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.parametrize("style", STYLES)
def test_harness_of_any_editor_is_the_plain_harness(tmp_path: Path, style: str) -> None:
    found = Harness.load(harness(tmp_path, {name: STYLES[style](data) for name, data in FILES.items()}))
    assert found.files == PLAIN.files and found.digest == PLAIN.digest
    assert found.with_knobs({"n": 2}).digest == PLAIN.with_knobs({"n": 2}).digest


@pytest.mark.parametrize("style", STYLES)
def test_task_of_any_editor_has_the_plain_digest_and_text(tmp_path: Path, style: str) -> None:
    folder = toy(tmp_path)
    (folder / "task.md").write_text("Pick.\n\nWell.\n")
    plain = Task.load(folder)
    for name in ("task.toml", "task.md", "task.py"):
        (folder / name).write_bytes(STYLES[style]((folder / name).read_bytes()))
    found = Task.load(folder)
    assert (found.config, found.digest, found.description) == (plain.config, plain.digest, plain.description)
    assert [problem.id for problem in found.problems("train")] == [problem.id for problem in plain.problems("train")]


@pytest.mark.control
def test_data_file_of_a_task_counts_byte_by_byte(tmp_path: Path) -> None:
    folder = toy(tmp_path)
    (folder / "rows.csv").write_bytes(b"a\nb\n")
    before = Task.load(folder).digest
    (folder / "rows.csv").write_bytes(b"a\r\nb\r\n")
    assert Task.load(folder).digest != before


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\r\n", b"\xff\xfe\r\n", b"\0\r\n", b"plain\n", b"", b"\xe9\r\n"])
def test_binary_and_plain_data_stay_as_they_are(data: bytes) -> None:
    assert text_files.normalised(data) is data


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_normalised_text_is_stable_and_has_one_line_end(text: str) -> None:
    found = text_files.normalised_text(text)
    assert "\r" not in found and text_files.decode(found.encode(errors="replace")) is not None
    assert found.startswith("\ufeff") or text_files.normalised_text(found) == found


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_any_bytes_are_text_or_named(data: bytes) -> None:
    try:
        assert "\r" not in text_files.decode(data)
    except text_files.EncodingError as error:
        assert "not UTF-8" in str(error)  # noqa: PT017


ENCODED = [
    ("latin-1", "line 2 holds the byte 0xe9 (perhaps Latin-1 or Windows-1252)"),
    ("cp1252", "line 2 holds the byte 0xe9"),
    ("utf-16", "is UTF-16, not UTF-8"),
    ("utf-32", "is UTF-32, not UTF-8"),
]


@pytest.mark.parametrize(("encoding", "words"), ENCODED)
@pytest.mark.parametrize("name", ["task.toml", "task.md"])
def test_task_file_in_another_encoding_is_named(tmp_path: Path, name: str, encoding: str, words: str) -> None:
    folder = toy(tmp_path)
    text = (folder / name).read_text() if name == "task.toml" else "Pick\n"
    (folder / name).write_bytes(text.replace("\n", "\n# é\n", 1).encode(encoding))
    with pytest.raises(TaskError) as caught:
        Task.load(folder).receive()
    assert words in caught.value.what and caught.value.where == str(folder / name)
    assert caught.value.hint == "save the file as UTF-8"


@pytest.mark.parametrize(("encoding", "words"), ENCODED)
@pytest.mark.parametrize("name", FILES)
def test_harness_file_in_another_encoding_is_named(tmp_path: Path, name: str, encoding: str, words: str) -> None:
    data = FILES[name].decode().replace("\n", "\n# é\n", 1).encode(encoding)
    with pytest.raises(HarnessError) as caught:
        Harness.load(harness(tmp_path, {**FILES, name: data}))
    assert words in caught.value.what and name in caught.value.what
    assert caught.value.hint == "save the file as UTF-8"


@pytest.mark.control
def test_program_that_declares_its_encoding_is_taken(tmp_path: Path) -> None:
    code = b"# -*- coding: latin-1 -*-\n# \xe9\n" + FILES["agent.py"]
    assert Harness.load(harness(tmp_path, {**FILES, "agent.py": code})).files["agent.py"] == code


def test_exported_harness_keeps_its_bytes(tmp_path: Path) -> None:
    files = {**FILES, "agent.py": FILES["agent.py"].replace(b"\n", b"\r\n")}
    assert Harness.load(harness(tmp_path, files), exact=True).files == files


@pytest.mark.parametrize(
    ("data", "search", "replace"),
    [
        (FILES["agent.py"], "solve(problem, ctx):\r\n    return 1\r\n", "solve(problem, ctx):\r\n    return 2\r\n"),
        (FILES["agent.py"].replace(b"\n", b"\r\n"), "ctx):\n    return 1\n", "ctx):\n    return 2\n"),
        (BOM + FILES["agent.py"], "async def solve(problem, ctx):\n    return 1", f"{SOLVE}\n    return 2"),
    ],
)
def test_block_matches_whatever_the_line_ends(data: bytes, search: str, replace: str) -> None:
    parent = Harness.from_files({**FILES, "agent.py": data})
    found = apply_edits(parent, [Edit("agent.py", blocks=(Block(search, replace),))])
    assert found.files["agent.py"] == FILES["agent.py"].replace(b"1", b"2")


def test_whole_text_of_an_edit_is_normalised() -> None:
    found = apply_edits(PLAIN, [Edit("prompts/first.md", text="\ufeffSay\r\n{x}.\r")])
    assert found.files["prompts/first.md"] == b"Say\n{x}.\n"


def test_prices_with_a_mark_and_windows_line_ends_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sia_core.agents import prices

    file = tmp_path / "prices.toml"
    file.write_bytes(BOM + b'[models."m"]\r\ninput = 1\r\noutput = 2\r\n')
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    assert prices.policy_price("openai:m") is not None
    file.write_bytes(b"# \xe9\n")
    with pytest.raises(UsageError) as caught:
        prices.policy_price("openai:m")
    assert "not UTF-8" in caught.value.what


NASTY = ["with blank", "it's", 'say "x"', "$HOME", "a;b", "é *", "new\nline", "`x`"]


@pytest.mark.parametrize("name", NASTY)
def test_printed_words_survive_a_shell(name: str) -> None:
    said = subprocess.run(["sh", "-c", f"printf %s {quoted(name)}"], capture_output=True, text=True, check=True)
    assert said.stdout == name
    assert shlex.split(command("sia", "check", Path(name))) == ["sia", "check", name]


@pytest.mark.parametrize("name", NASTY)
def test_next_steps_of_init_can_be_pasted(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path / name)
    said = capsys.readouterr().out.partition("next: ")[2]
    words = list(shlex.shlex(said, posix=True, punctuation_chars=True))
    assert words.count(str(tmp_path / name)) == 2
    assert str(tmp_path / name / "README.md") in words


@pytest.mark.control
@pytest.mark.parametrize("name", NASTY)
def test_command_of_a_report_can_be_pasted(tmp_path: Path, name: str) -> None:
    plan = dict.fromkeys(
        ("generations", "rollouts", "problems", "gate_problems", "gate_rollouts", "test_problems", "test_rollouts"), 2
    )
    config = RunConfig.model_validate({"task": str(tmp_path / name), "policy": f"local:{tmp_path / name}", **plan})
    words = shlex.split(run_command(config))
    assert words[:3] == ["sia", "run", str(tmp_path / name)]
    assert f"local:{tmp_path / name}" in words


def test_hint_of_a_full_disk_can_be_pasted(tmp_path: Path) -> None:
    error = cannot_write(OSError(28, "No space left on device"), tmp_path / "with blank" / "file")
    assert shlex.split(error.hint.partition(": ")[2]) == ["df", "-h", str(tmp_path / "with blank")]


_COMMAND = re.compile(r"(?:\bsia [a-z]+|\brm -|\bdf -|\bcurl -|\bpip install|--policy|--agent|--resume)[^;,`\n(]*")
_SAFE = re.compile(
    r"(?:quoted|command|shlex\.\w+)\(|.*\bname\b$|^(?:self\._name|run|name|made|process\.pid|tags\[Tag\.ARMS\]|SPEC)$"
    r"|.*\b(?:generations|DECISIONS|seed|silence_s|seeds)\b"
)
"""Expressions that need no quotes: names that SIA made of letters, digits and hyphens, and numbers."""


def pasted(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and source of each expression within a command that an f-string prints; a `where` is a label, no command."""
    labels = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "where"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr) or id(node) in labels:
            continue
        parts = [part.value if isinstance(part, ast.Constant) else "\x00" for part in node.values]
        values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        text = "".join(map(str, parts))
        for found in _COMMAND.finditer(text):
            first = text[: found.start()].count("\x00")
            for value in values[first : first + found.group().count("\x00")]:
                yield value.lineno, ast.unparse(value)


def test_every_printed_command_quotes_paths_and_specs() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {source}"
        for top in ("sia_core", "flows", "infra")
        for path in sorted((ROOT / top).rglob("*.py"))
        for line, source in pasted(ast.parse(path.read_text()))
        if not _SAFE.match(source)
    ]
    assert not found, "quote by sia_core.domain.command:\n" + "\n".join(found)


@pytest.mark.control
@pytest.mark.parametrize("source", ['f"sia check {path}"', 'f"next: sia eval {a} {b}"', 'f"rm -r {base}; then"'])
def test_search_for_unquoted_commands_finds_them(source: str) -> None:
    assert any(not _SAFE.match(one) for _, one in pasted(ast.parse(source)))


def test_command_line_reads_a_task_below_a_path_with_blanks_and_quotes(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "task" of mine'
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "task.toml").write_bytes(BOM + (folder / "task.toml").read_bytes().replace(b"\n", b"\r\n"))
    line = command(sys.executable, "-m", "sia_core.cli.main", "check", folder, "--sandbox", "none", "--problems", 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and "toy is sound" in done.stdout, done.stdout + done.stderr

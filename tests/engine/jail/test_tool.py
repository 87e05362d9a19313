"""The program of a command is found, and the jail shows as little of its directory as the program needs."""

import os
from pathlib import Path

import pytest

from sia_core.domain.errors import UsageError
from sia_core.engine.jail.tool import find_tool


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory whose PATH holds only the programs of a test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/.local/bin:{tmp_path}/node/bin:{tmp_path}/shims:/usr/bin")
    return tmp_path


def program(path: Path, text: str = "\x7fELF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_system_program_needs_no_mount(home: Path) -> None:
    found = find_tool("env")
    assert (found.mounts, found.path) == ((), ())


def test_single_program_is_shown_without_its_directory(home: Path) -> None:
    tool = program(home / "project/tool")
    assert find_tool(str(tool)).mounts == (tool,)


def test_program_of_an_installation_brings_its_prefix(home: Path) -> None:
    tool = program(home / "venv/bin/tool")
    (home / "venv/pyvenv.cfg").touch()
    found = find_tool(str(tool))
    assert found.mounts == (home / "venv",)
    assert (found.program, found.path) == (str(tool), (str(tool.parent),))


def test_link_in_a_home_directory_shows_only_its_target(home: Path) -> None:
    real = program(home / ".local/share/claude/versions/2.0.1")
    (home / ".local/lib").mkdir()
    (home / ".local/bin").mkdir(parents=True)
    (home / ".local/bin/claude").symlink_to(real)
    found = find_tool("claude")
    assert found.mounts == (real,)
    assert found.program == str(real)


def test_node_package_brings_its_packages_and_its_interpreter(home: Path) -> None:
    program(home / "node/bin/node")
    script = program(home / "node/lib/node_modules/@openai/codex/bin/codex.js", "#!/usr/bin/env node\n")
    (home / "node/bin/codex").symlink_to(script)
    found = find_tool("codex")
    assert found.mounts == (home / "node",)
    assert found.program == str(home / "node/bin/codex")


def test_package_in_a_project_does_not_show_the_project(home: Path) -> None:
    program(home / "node/bin/node")
    (home / "node/lib").mkdir()
    script = program(home / "project/node_modules/@google/gemini-cli/dist/index.js", "#!/usr/bin/env -S node --x\n")
    (link := home / "project/node_modules/.bin/gemini").parent.mkdir()
    link.symlink_to(script)
    assert set(find_tool(str(link)).mounts) == {home / "project/node_modules", home / "node"}


def test_shims_are_passed_over(home: Path) -> None:
    program(home / "shims/tool", "#!/bin/sh\n")
    with pytest.raises(UsageError, match="program 'tool' not found"):
        find_tool("tool")


def test_missing_interpreter_is_named(home: Path) -> None:
    tool = program(home / "tool", "#!/usr/bin/env no-such-interpreter\n")
    with pytest.raises(UsageError, match="needs 'no-such-interpreter', which is not found"):
        find_tool(str(tool))
    assert os.access(tool, os.X_OK)

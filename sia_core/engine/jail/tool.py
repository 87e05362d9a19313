"""Find a command's program, and the directories of the program and its interpreter.

The jail shows the minimum: the prefix of an installation, the first `node_modules` above the program, or the program's
file alone. A prefix that holds more than software, such as a home directory, is never shown.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sia_core.domain.errors import UsageError

_SYSTEM = (Path("/usr"), Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin"))
_LINE = 256


@dataclass(frozen=True)
class Tool:
    """A program that can be started in a jail."""

    program: str
    """Path of the program to start."""
    mounts: tuple[Path, ...]
    """Files and directories that the program reads."""
    path: tuple[str, ...]
    """Directories for PATH, before those of the system."""


def find_tool(word: str) -> Tool:
    """Find the program of a command's first word.

    Raises:
        UsageError: no such program.
    """
    found = _which(str(Path(word).expanduser()) if word.startswith("~") else word)
    if found is None:
        hint = "install it, correct PATH, or give its whole path; shims of version managers are ignored"
        raise UsageError(f"program {word!r} not found", where="--agent", hint=hint)
    programs = list(_with_interpreters(Path(found).absolute()))
    mounts = [root for program in programs for root in _roots(program)]
    kept = tuple(root for root in dict.fromkeys(mounts) if not any(_inside(root, other) for other in mounts))
    first = programs[0]
    seen = any(first.is_relative_to(root) for root in (*kept, *_SYSTEM))
    path = dict.fromkeys(str(program.parent) for program in programs if not _in_system(program))
    return Tool(str(first if seen else first.resolve()), kept, tuple(path))


def _which(word: str) -> str | None:
    """Look a program up as a shell does, but ignore shims, which need their whole version manager."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return shutil.which(word, path=os.pathsep.join(place for place in places if Path(place).name != "shims"))


def is_broad(path: Path) -> bool:
    """Return True if a directory holds more than software, such as personal files."""
    home = Path.home()
    broad = {home, home / ".local", home / ".local/share", home / ".config", home / ".cache", Path("/opt")}
    roots = {Path(f"/{name}") for name in ("home", "root", "tmp", "var", "etc", "run", "proc", "sys", "dev", "mnt", "")}
    return path in broad | roots or home.is_relative_to(path)


def _with_interpreters(program: Path) -> Iterator[Path]:
    """Yield the program, and the interpreter that its first line names."""
    yield program
    with program.open("rb") as file:
        line = file.readline(_LINE).decode(errors="replace")
    words = line[2:].split() if line.startswith("#!") else []
    if not words:
        return
    named = words[0]
    if Path(named).name == "env":
        named = next((word for word in words[1:] if not word.startswith("-")), "")
    found = _which(named) if named else None
    if found is None:
        raise UsageError(f"{program} needs {named!r}, which is not found", where="--agent", hint="install it")
    yield Path(found).absolute()


def _roots(program: Path) -> Iterator[Path]:
    """Yield the paths that a program needs to run: around its name, and around the target of its link."""
    real = program.resolve()
    yield from (root for root in (_prefix(program), _prefix(real)) if root is not None)
    if _prefix(real) is None and not _in_system(real):
        yield real


def _prefix(program: Path) -> Path | None:
    if _in_system(program):
        return None
    parts = program.parts
    if "node_modules" in parts:
        return Path(*parts[: parts.index("node_modules") + 1])
    prefix = program.parent.parent
    installed = (prefix / "lib").is_dir() or (prefix / "pyvenv.cfg").is_file()
    return prefix if program.parent.name == "bin" and installed and not is_broad(prefix) else None


def _in_system(path: Path) -> bool:
    return any(path.is_relative_to(root) for root in _SYSTEM)


def _inside(path: Path, other: Path) -> bool:
    return path != other and path.is_relative_to(other)

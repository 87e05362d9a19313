"""The directory that a command works in: the files written before it starts, and those read after.

Nothing that the command changes is trusted. Only the directories it names as harnesses, `decision.json` and requests
are read, all by `untrusted`.
"""

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import Any

from sia_core.domain.errors import UsageError
from sia_core.domain.harness import MAX_BYTES, MAX_FILES
from sia_core.domain.jail import GIVEN, Jail
from sia_core.domain.json_data import Blob, UnfitError, parse
from sia_core.domain.text_files import normalised_files
from sia_core.host.disk import cannot_write
from sia_core.host.untrusted import UntrustedError, discard, opened, read_regular, read_tree, replace

DECISION, FAULTS, HARNESS = "decision.json", "FAULTS.md", "harness"
REQUESTS, PROGRAM = "requests", "try_harness"
DECISION_BYTES = 256 * 1024
_IGNORED = ("README.md", "LICENSE")
_HOME_BYTES, _HOME_FILES = 64 << 20, 5000
_NO_NAMES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_READY = "ready"
_START = '#!/bin/sh\nexec {python} -I -S -B {given}/try_harness.py "$@"\n'


@dataclass(frozen=True)
class Handed:
    """Harness files and decision that a command handed in when it ended."""

    files: Mapping[str, Blob]
    """Files of the directory harness/, by name."""
    decision: dict[str, Any]


class Desk:
    """Directories of one decision. The command can write `work` and `home`, and only read `given`."""

    def __init__(self, folder: Path, jail: Jail) -> None:
        self._jail, self._folder = jail, folder
        self.work, self.home, self.given = folder / "work", folder / "home", folder / "given"
        self.replies = self.given / "replies"

    def lay(self, contents: Iterable[tuple[str, bytes]], copies: tuple[Path, ...]) -> None:
        """Write the home, and all other files unless they were complete before the run was interrupted.

        Raises:
            RecordError: the disk is full.
            UsageError: the files for the home are too large.
        """
        try:
            self._jail.remove(self.home)
            self._jail.remove(self.given)
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.home.mkdir(mode=0o700)
            for folder in (self.given, self.replies):
                folder.mkdir()
                folder.chmod(0o755)  # Independent of the umask: the command may be another user.
            source = (package_files("sia_core.agents.command") / f"{PROGRAM}.py").read_bytes()
            (self.given / f"{PROGRAM}.py").write_bytes(source)
            (self.given / f"{PROGRAM}.py").chmod(0o644)
            for path in copies:
                _copy(path, self.home / path.relative_to(Path.home()))
            self._jail.own(self.home)
            if not (self._folder / _READY).exists():
                self._jail.remove(self.work)
                for name, data in contents:
                    _write(self.work / name, data)
                (self.work / PROGRAM).write_text(_START.format(python=shlex.quote(sys.executable), given=GIVEN))
                (self.work / PROGRAM).chmod(0o755)
                self._jail.own(self.work)
                (self._folder / _READY).touch()
        except OSError as error:
            raise cannot_write(error, self._folder) from error

    def clear(self) -> None:
        """Remove the command's directories, which hold copies of your files."""
        for folder in (self.work, self.home, self.given):
            self._jail.remove(folder)
        (self._folder / _READY).unlink(missing_ok=True)

    def put_away_home(self) -> None:
        """Remove the copies of your files."""
        self._jail.remove(self.home)

    def begin_round(self, faults: str) -> None:
        """Move the previous round's decision and requests away, and write `faults`, if any, to FAULTS.md."""
        with opened(self.work) as work:
            for name in (DECISION, REQUESTS):
                discard(work, name)
            os.mkdir(REQUESTS, 0o755, dir_fd=work)
            if faults:
                replace(work, FAULTS, faults.encode())
        self._jail.own(self.work / REQUESTS)

    def handed(self) -> Handed:
        """Read the harness files and the decision that the command left.

        Raises:
            UntrustedError: they cannot be read; the message is written for the command.
        """
        with opened(self.work) as work:
            data = read_regular(work, DECISION, DECISION_BYTES)
        if data is None:
            raise UntrustedError(f"there is no file {DECISION}")
        return Handed(self.harness(HARNESS), parse_object(data, DECISION))

    def harness(self, name: str) -> dict[str, bytes]:
        """Read the files of a directory of the command; line ends and byte order marks of its editor do not matter.

        Raises:
            UntrustedError: the directory cannot be read.
        """
        with opened(self.work) as work:
            return normalised_files(read_tree(work, name, files=MAX_FILES, cap=MAX_BYTES, ignored=_IGNORED))


def is_passed_over(name: str) -> bool:
    """Return True if a directory's file is not read into a harness: hidden, a cache, README.md or LICENSE."""
    path = PurePosixPath(name)
    return path.name in _IGNORED or any(part.startswith((".", "__pycache__")) for part in path.parts)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        UntrustedError: `data` is not a JSON object.
    """
    try:
        found = parse(data)
    except UnfitError as error:
        raise UntrustedError(f"{name} is refused: {error}") from error
    except ValueError as error:
        raise UntrustedError(f"{name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UntrustedError(f"{name} holds no JSON object")
    return found


def _write(path: Path, data: bytes) -> None:
    """Write a file, unless its name is invalid for the file system, as in a rejected draft."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except ValueError:
        return
    except OSError as error:
        if error.errno not in _NO_NAMES:
            raise


def _copy(source: Path, target: Path) -> None:
    found = [source, *(source.rglob("*") if source.is_dir() else ())]
    size = sum(one.stat().st_size for one in found if one.is_file())
    if len(found) > _HOME_FILES or size > _HOME_BYTES:
        what = f"{source} holds {len(found)} files, {size >> 20} MB"
        hint = f"name single files; {_HOME_FILES} files and {_HOME_BYTES >> 20} MB are copied at most"
        raise UsageError(what, where="--agent-files", hint=hint)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)

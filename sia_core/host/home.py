"""Locate SIA's directory: `$SIA_HOME`, else `~/.sia`. Only you can enter it.

Everything that outlives a run is kept in it: MLflow's SQLite file, caches, fetched models, secrets.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sia_core.domain.errors import RecordError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Mode bits of other users."""
_MARKS = ("mlflow.db", "key", "services")
"""Entries by which a directory is known as SIA's own."""
_PRIVATE = (
    *("key", "*.db*", "ui.html", "artifacts", "services", "services/*", "logs", "logs/*", "prefect", "prefect/*.db*"),
    *("runs", "runs/*/*.db*", "runs/*/*.jsonl"),
)
"""Keys, answers, transcripts and databases, and the directories that hold them."""


def home() -> Path:
    """Return the absolute path of the directory, which is created on first use.

    Raises:
        RecordError: the directory cannot be created or written, or belongs to another user.
    """
    asked = os.environ.get("SIA_HOME", "").strip()
    hint = "set SIA_HOME to a directory that you can write, such as export SIA_HOME=$PWD/.sia"
    try:
        path = (Path(asked) if asked else Path.home() / ".sia").expanduser().absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except (OSError, RuntimeError) as error:
        # RuntimeError: no home directory can be determined for this user.
        raise RecordError(f"cannot create SIA's directory ({error})", where=asked or "~/.sia", hint=hint) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RecordError("SIA's directory is not writable", where=str(path), hint=hint)
    if found.st_uid not in (os.geteuid(), 0):  # Root's is as safe as the machine: volumes of containers are root's.
        what = f"SIA's directory belongs to another user (uid {found.st_uid}), whose records could name any code"
        raise RecordError(what, where=str(path), hint=hint)
    if found.st_uid == os.geteuid() and found.st_mode & OTHERS and _is_ours(path):
        path.chmod(0o700)
    return path


def private_directory(path: Path) -> Path:
    """Make a directory that only you can enter, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def private_file(path: Path) -> Path:
    """Make a file that only you can read, or take the rights of others from it, and return it."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    if path.stat().st_mode & OTHERS:
        path.chmod(0o600)
    return path


@contextmanager
def private_files() -> Iterator[None]:
    """Make what this process and its new children create meanwhile readable by you alone. Not for threads."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(home: Path) -> list[Path]:
    """List SIA's directory and what is yours alone in it, as far as other users have rights on them."""
    found = [home, *(path for pattern in _PRIVATE for path in sorted(home.glob(pattern)))]
    return [path for path in found if path.lstat().st_mode & OTHERS and not path.is_symlink()]


def _is_ours(path: Path) -> bool:
    """Return True for a new directory and one that SIA has used: others may be shared on purpose."""
    names = {entry.name for entry in path.iterdir()}
    return not names or not names.isdisjoint(_MARKS)

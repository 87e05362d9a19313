"""Recognise a full disk in nested errors, and report it so that you can act on it."""

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sia_core.domain.command import command
from sia_core.domain.errors import RecordError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ("database or disk is full", "No space left on device", "Disk quota exceeded", "File too large")


def is_full(error: BaseException) -> bool:
    """Return True if an error is caused by a full disk; libraries that wrap errors keep the words."""
    return any(_is_full(one) for one in chain(error))


def cannot_write(error: BaseException, path: Path) -> RecordError:
    """Create the error that ends the run: what, where, what to do."""
    if is_full(error):
        where = path if path.is_dir() else path.parent
        return RecordError(
            f"the disk is full ({error})", where=str(path), hint=f"free space there: {command('df', '-h', where)}"
        )
    return RecordError(f"cannot be written: {error}", where=str(path), hint="check its disk")


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return True
    return any(words in str(error) for words in _WORDS)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, the last one first."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__

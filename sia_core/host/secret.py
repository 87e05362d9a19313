"""Secrets of this SIA_HOME, each in a file that only you can read."""

import os
import secrets
import tempfile
from pathlib import Path

from sia_core.domain.command import command
from sia_core.domain.errors import RecordError
from sia_core.host.home import OTHERS, private_directory


def secret(file: Path, beginning: str = "") -> str:
    """Return the text of a secret file, which is created with `beginning` and a random text on first use.

    Raises:
        RecordError: the file cannot be read or written, belongs to another user, or is readable by others.
    """
    try:
        if not file.exists():
            _create(file, beginning)
        found = file.stat()
        text = file.read_text().strip()
    except OSError as error:
        raise RecordError(f"a secret cannot be read: {error.strerror}", where=str(file)) from error
    wrong = "others can read or replace a secret" if found.st_uid != os.geteuid() or found.st_mode & OTHERS else ""
    wrong = wrong or ("" if text else "a secret is empty")
    if wrong:
        hint = f"delete it, and a new one is made: {command('rm', file)}"
        raise RecordError(wrong, where=str(file), hint=hint)
    return text


def _create(file: Path, beginning: str) -> None:
    """Write a new secret, unless another process is quicker: both then read the same one."""
    private_directory(file.parent)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # Mode 0600.
    try:
        with os.fdopen(handle, "w") as out:
            out.write(f"{beginning}{secrets.token_urlsafe(32)}\n")
        os.link(name, file)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()

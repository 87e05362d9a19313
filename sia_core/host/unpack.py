"""Take one file out of a wheel (a zip), by its exact name.

Invariants: only the named member is read, at most `max_bytes` are written, and the file appears whole or not at all.
"""

import os
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Final

from sia_core.domain.errors import FetchError

MAX_BYTES: Final = 1 << 31
_CHUNK: Final = 1 << 20


def extract(wheel: Path, member: str, dest: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Write the member's bytes to `dest`.

    Raises:
        FetchError: the name is unsafe or unknown, the member exceeds `max_bytes`, the wheel is damaged, or the disk is
            full.
    """
    _check_name(wheel, member)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive, archive.open(_member(archive, wheel, member, max_bytes)) as source:
            _write(source, dest, max_bytes)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        hint = f"remove {wheel} and fetch it again"
        raise FetchError(f"not a readable wheel ({error})", where=str(wheel), hint=hint) from error
    except OSError as error:
        hint = "check the path and the free space of that disk"
        raise FetchError(f"cannot write {member} ({error})", where=str(dest), hint=hint) from error
    return dest


def _check_name(wheel: Path, member: str) -> None:
    path = PurePosixPath(member)
    if not member or path.is_absolute() or ".." in path.parts or "\\" in member:
        what = f"refused the unsafe member name {member!r}"
        raise FetchError(what, where=str(wheel), hint="name a file in the wheel")


def _member(archive: zipfile.ZipFile, wheel: Path, member: str, max_bytes: int) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member)
    except KeyError as error:
        hint = f"list its files with: python -m zipfile -l {wheel}"
        raise FetchError(f"the wheel has no file {member!r}", where=str(wheel), hint=hint) from error
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise FetchError(f"{member!r} is not a plain file", where=str(wheel), hint="name a file in the wheel")
    if info.file_size > max_bytes:
        what = f"{member!r} has {info.file_size} bytes, more than the cap of {max_bytes}"
        raise FetchError(what, where=str(wheel), hint="raise the cap if the file is what you expect")
    return info


def _write(source: IO[bytes], dest: Path, max_bytes: int) -> None:
    """Copy to a temporary file beside `dest`, then rename; do not trust the header's size."""
    handle, name = tempfile.mkstemp(dir=dest.parent, prefix=f".{dest.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            written = 0
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > max_bytes:
                    raise FetchError(f"more than the cap of {max_bytes} bytes", where=str(dest), hint="raise the cap")
                file.write(chunk)
        partial.chmod(0o644)
        partial.replace(dest)
    finally:
        partial.unlink(missing_ok=True)

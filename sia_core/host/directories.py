"""Directories that appear whole or not at all, without overwriting anything, and files written into directories."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sia_core.domain.errors import UsageError
from sia_core.host.disk import cannot_write


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a directory to write into, which becomes `target` on success.

    Raises:
        UsageError: `target` exists and is not an empty directory.
        RecordError: the directory cannot be written.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("already exists", where=str(target), hint="name a new directory; nothing is overwritten")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise cannot_write(error, target) from error
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(target)  # Onto an empty directory too.
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_write(error, target) from error
        raise


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below `folder`."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

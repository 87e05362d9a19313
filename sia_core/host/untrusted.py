"""Read and write in a directory that untrusted code fills, while that code may still run.

All access starts at the descriptor of a directory that this process made. No link is followed, no call can block, and
number, size and depth of the files are bounded.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 64
_BLOCK = 512


class UntrustedError(Exception):
    """A file is refused, for a reason addressed to its author."""


def open_folder(path: Path) -> int:
    """Open a directory; the caller closes the descriptor."""
    return os.open(path, _OPEN | os.O_DIRECTORY)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a directory, as `open_folder` does, and close it at the end."""
    folder = open_folder(path)
    try:
        yield folder
    finally:
        os.close(folder)


def open_regular(folder: int, name: str) -> int:
    """Open the regular file `name`; -1 if there is none or a link is in its path."""
    fd = _walk(folder, name)
    if fd >= 0 and not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return -1
    return fd


def read_regular(folder: int, name: str, cap: int) -> bytes | None:
    """Read the regular file `name`; None if there is none or a link is in its path.

    Raises:
        UntrustedError: the file is larger than `cap` bytes.
    """
    fd = open_regular(folder, name)
    if fd < 0:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(cap + 1)
    if len(data) > cap:
        raise UntrustedError(f"{name} is larger than {cap} bytes")
    return data


def read_tree(folder: int, name: str, *, files: int, cap: int, ignored: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Read all files below the directory `name`, without hidden ones and `ignored` names.

    Raises:
        UntrustedError: the directory is missing, or holds links, special files or too much data.
    """
    top = _walk(folder, name)
    if top < 0:
        raise UntrustedError(f"there is no directory {name}")
    found: dict[str, bytes] = {}
    try:
        if not stat.S_ISDIR(os.fstat(top).st_mode):
            raise UntrustedError(f"{name} is no directory")
        for path, parent, _ in _below(top, 20 * files, ignored):
            data = read_regular(parent, PurePosixPath(path).name, cap)
            if data is None:
                raise UntrustedError(f"{name}/{path} is no regular file: links and the like are not taken")
            found[path] = data
            if len(found) > files or sum(map(len, found.values())) > cap:
                raise UntrustedError(f"{name} holds more than {files} files or {cap} bytes")
    finally:
        os.close(top)
    return found


def replace(folder: int, name: str, data: bytes) -> None:
    """Write the file `name`, and move anything in its place out of the way."""
    token = f".{os.urandom(8).hex()}"
    fd = os.open(token, _CREATE, 0o644, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchmod(fd, 0o644)
    discard(folder, name)
    os.rename(token, name, src_dir_fd=folder, dst_dir_fd=folder)


def discard(folder: int, name: str) -> None:
    """Move anything at `name` out of the way."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=folder, dst_dir_fd=folder)


def measure(folder: Path, most: int) -> int:
    """Measure the bytes on disk below a directory.

    Raises:
        UntrustedError: there are more than `most` files, or they are nested too deep.
    """
    with opened(folder) as top:
        return sum(found.st_blocks * _BLOCK for _, _, found in _below(top, most, None))


def _below(top: int, most: int, ignored: tuple[str, ...] | None) -> Iterator[tuple[str, int, os.stat_result]]:
    """Yield path, parent's descriptor and status of all but directories; hidden files only if `ignored` is None."""
    count = 0

    def visit(folder: int, prefix: str, depth: int) -> Iterator[tuple[str, int, os.stat_result]]:
        nonlocal count
        if depth > _DEEPEST:
            raise UntrustedError(f"directories are nested deeper than {_DEEPEST}")
        for name in _names(folder, most):
            count += 1
            if count > most:
                raise UntrustedError(f"there are more than {most} files")
            if ignored is not None and (name.startswith((".", "__pycache__")) or name in ignored):
                continue
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=folder) if stat.S_ISDIR(found.st_mode) else -1
            except OSError:  # Removed or closed a moment ago.
                continue
            if inner < 0:
                yield prefix + name, folder, found
                continue
            try:
                yield from visit(inner, f"{prefix}{name}/", depth + 1)
            finally:
                os.close(inner)

    yield from visit(top, "", 0)


def _names(folder: int, most: int) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > most:
                break
    return sorted(names)


def _walk(folder: int, name: str) -> int:
    """Open `name` without following links; -1 if that fails."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return -1
    fd = os.dup(folder)
    for part in path.parts:
        parent = fd
        try:
            fd = os.open(part, _OPEN, dir_fd=parent)
        except OSError:
            return -1
        finally:
            os.close(parent)
    return fd

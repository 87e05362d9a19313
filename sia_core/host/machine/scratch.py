"""Directories for temporary data: Python's, Ray's, and the shared memory of Ray's objects.

Ray puts sockets below its directory, and a socket's path holds at most 107 bytes. Slurm may give a job a TMPDIR that
leaves too few of them. So Ray gets a directory of its own, private to the user: below RAY_TMPDIR, TMPDIR or /tmp, else
below another short place. A private directory also leaves alone the file by which another Ray of yours is found
(`ray_current_cluster`).
"""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil

from sia_core.domain.errors import RecordError, ServiceError
from sia_core.host.machine.condition import Condition

MEGABYTE: Final = 1_000_000
ROOM: Final = 100 * MEGABYTE
"""Free bytes that Ray's logs and the artifacts of a small run need."""
SOCKET_BYTES: Final = 107
"""Longest path of a socket (sun_path of unix(7) without its final zero)."""
_RAY: Final = "ray"
"""Directory within the private one: Ray opens its own directory to everyone (mode 777)."""
_SESSION: Final = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Longest path of a socket below Ray's directory."""
_SHORT: Final = (Path("/tmp"), Path("/var/tmp"))
_SHARED: Final = Path("/dev/shm")
_STORE: Final = 128 * MEGABYTE
"""Smallest store that is worth its place; Ray takes no less than 79 MB."""
_SHARE: Final = 0.3
"""Part of the memory that Ray takes for its store by default."""


def check_temporary() -> Condition:
    """Check that temporary files can be written.

    Raises:
        RecordError: no directory can be written, or there is no room.
    """
    hint = "free some space there, or export TMPDIR=/a/directory/with/room"
    try:
        where = Path(tempfile.gettempdir())
    except OSError as error:  # Python has tried TMPDIR, /tmp, /var/tmp and the current directory.
        asked = os.environ.get("TMPDIR") or "/tmp"
        raise RecordError("no directory for temporary files can be written", where=asked, hint=hint) from error
    free = _free(where)
    if free < ROOM:
        raise RecordError(f"{_megabytes(free)} free, a run needs {_megabytes(ROOM)}", where=str(where), hint=hint)
    return Condition(f"{where}, {_megabytes(free)} free")


def ray_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return a short directory for Ray, private to this user, which is created on first use.

    Raises:
        ServiceError: RAY_TMPDIR cannot be used, or no other directory can.
    """
    asked = environment.get("RAY_TMPDIR", "")
    problems = []
    for base in _bases(environment):
        private = base.absolute() / f"sia-{os.geteuid()}"
        problem = _problem(private)
        if not problem:
            return private / _RAY
        problems.append(f"{private} {problem}")
    what = f"Ray has no directory for its sockets: {'; '.join(problems)}"
    hint = f"export RAY_TMPDIR=/a/short/directory with {_megabytes(ROOM)} free"
    raise ServiceError(what, where="RAY_TMPDIR" if asked else "engine", hint=hint)


def check_ray_directory() -> Condition:
    """Check that Ray finds a directory for its sockets and logs; see `ray_directory` for errors."""
    return Condition(str(ray_directory()))


def object_store(shared: Path = _SHARED) -> int | None:
    """Return the bytes of Ray's object store if its default would not fit into shared memory, else None."""
    room = _free(shared)
    if room >= _SHARE * psutil.virtual_memory().total:
        return None
    return max(_STORE, int(room * 0.9))


def in_shared_memory(size: int, shared: Path = _SHARED) -> bool:
    """Return True if a store of `size` bytes fits into shared memory."""
    return _free(shared) >= size


def check_shared_memory(shared: Path = _SHARED) -> Condition:
    """Describe the shared memory; Ray uses the disk where there is too little."""
    size, free = object_store(shared), _free(shared)
    seen = f"{_megabytes(free)} free in {shared}"
    if size is None or in_shared_memory(size, shared):
        return Condition(seen)
    fix = "docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm"
    return Condition(f"{seen}: Ray keeps its objects on disk, which is slower", fix)


def _bases(environment: Mapping[str, str]) -> Iterator[Path]:
    asked = environment.get("RAY_TMPDIR", "")
    if asked:  # Another place would be a surprise.
        yield Path(asked)
        return
    named = environment.get("TMPDIR", "")
    if named:
        yield Path(named)
    yield from (base for base in _SHORT if str(base) != named)


def _problem(folder: Path) -> str:
    """Return why a directory cannot be the private one, or an empty text; create it if need be."""
    longest = SOCKET_BYTES - len(f"/{_RAY}{_SESSION}")
    if len(os.fsencode(folder)) > longest:
        return f"is longer than {longest} bytes"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if _is_mine(found) and not found.st_mode & 0o022:
            folder.chmod(0o700)  # Ray makes it again with mode 755 if something has removed it meanwhile.
            found = folder.lstat()
    except OSError as error:
        return f"cannot be created ({error.strerror})"
    if not _is_mine(found):
        return "belongs to another user or is no directory"
    if found.st_mode & 0o077:
        return "is open to other users (chmod 700)"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "is not writable"
    free = _free(folder)
    return f"has only {_megabytes(free)} free" if free < ROOM else ""


def _is_mine(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _free(where: Path) -> int:
    """Return the free bytes of a directory's file system; 0 if it has no free files or does not exist."""
    try:
        found = os.statvfs(where)
    except OSError:
        return 0
    return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.0f} MB"

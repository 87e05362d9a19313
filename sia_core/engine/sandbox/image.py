"""Copy what programs read into memory, so that reading leaves no trace for another program.

Files on a disk have state that every reader changes and can measure: which pages are cached, and which names were
looked up. By that state, programs of different sandboxes could carry kilobytes to each other (bench/channels.py). Files
in memory have none: each page and name is always there, and names that do not exist are not remembered.

An *image* is a directory below /dev/shm with the interpreter, the standard library, the packages that a sandbox
declares with what they need, the shared libraries of all these, and a shell with its usual tools, each at its own path.
Sandboxes with the same packages share an image. The last process that uses images removes them.
"""

# ruff: noqa: PTH110, PTH112, PTH114, PTH115, PTH118 - path objects take ten times as long for thousands of files

import atexit
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from sia_core.domain.errors import SandboxError
from sia_core.domain.hashing import digest_json
from sia_core.engine.sandbox import interpreter

MEMORY = Path("/dev/shm")
ALWAYS = ("numpy", "scipy", "sklearn")
"""Packages of every image, as far as they are installed: what a harness may import beyond the standard library."""
_SHARE = 0.5
"""Most of the free memory that one image may take."""
_TOOLS = """
awk base64 basename bash cat chmod cmp comm cp cut date dash diff dirname du echo env expr false find grep head id join
ln ls mkdir mktemp mv nl nproc od paste printf pwd readlink realpath rm rmdir sed seq sh sha256sum sleep sort split stat
tail tar tee test timeout touch tr true uname uniq wc which xargs
"""
_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "ensurepip", "lib2to3"}
)
"""Directories of the standard library and of packages that no program needs."""
_ENDINGS = (".a", ".pyi", ".pyx", ".pxd", ".h", ".c")
_OTHERS = (
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/lib/locale/C.utf8"),
    *("/usr/lib/*/libgcc_s.so.1", "/usr/lib64/libgcc_s.so.1", "/usr/lib/*/libnss_files.so.2"),
)
"""Files that programs open by name, or libraries load at run time."""
_NAMES = {"sklearn": "scikit-learn"}
"""Distributions by the module that is named otherwise."""
_BATCH = 200
_held: list[int] = []
"""Descriptor of the lock that this process holds on the images of this user."""


def image(modules: Sequence[str]) -> Path:
    """Return an image for programs that import these modules, copied if it is not there yet.

    Raises:
        SandboxError: the memory cannot hold it, or a library cannot be found.
    """
    return _image(tuple(sorted({*ALWAYS, *(name.partition(".")[0] for name in modules)})))


@functools.cache
def copy(source: Path) -> Path:
    """Return a copy of a directory in memory.

    Raises:
        SandboxError: the memory cannot hold it.
    """
    files = {str(path): _facts(str(path)) for path in sorted(source.rglob("*"))}
    key = digest_json([str(source), *((path, *facts) for path, facts in files.items())])[:32]
    return _made(key, lambda place: _fill_flat(place, source), sum(size for size, _ in files.values()))


@functools.cache
def _image(names: tuple[str, ...]) -> Path:
    sources = sorted({*_python(), *_packages(names), *_tools()})
    files = dict(_files(sources))
    key = digest_json([sys.version, sys.prefix, *((path, *facts) for path, facts in files.items())])[:32]
    return _made(key, lambda place: _fill(place, files), sum(size for size, _ in files.values()))


def _python() -> Iterator[Path]:
    """Find the interpreter's programs and the standard library."""
    yield Path(sys.executable)
    yield from Path(sys.executable).parent.glob("python*")
    yield Path(sys.prefix, "pyvenv.cfg")
    yield from {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    yield from {
        Path(sysconfig.get_path(name, vars={"base": sys.base_prefix, "platbase": sys.base_prefix}))
        for name in ("stdlib", "platstdlib")
    }


def _tools() -> Iterator[Path]:
    for name in _TOOLS.split():
        if (found := shutil.which(name, path="/usr/bin:/bin")) is not None:
            yield Path(found)
    for pattern in _OTHERS:
        yield from Path("/").glob(pattern.removeprefix("/"))


def _packages(names: Iterable[str]) -> set[Path]:
    """Find the files of top-level modules, and of the distributions that theirs need."""
    found, seen = set[Path](), set[str]()
    for name in names:
        for one in _providers(name):
            found |= _distribution(one, seen)
        spec = None if name in sys.stdlib_module_names else find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            found |= {Path(place) for place in spec.submodule_search_locations}
        elif spec is not None and spec.origin and Path(spec.origin).is_file():
            found.add(Path(spec.origin))
    return found


def _providers(name: str) -> Sequence[str]:
    """Name the distributions that hold a top-level module."""
    name = _NAMES.get(name, name)
    try:
        distribution(name)
    except PackageNotFoundError:
        return _all_providers().get(name, ())  # Reads the metadata of all that is installed, which takes a second.
    return (name,)


@functools.cache
def _all_providers() -> Mapping[str, Sequence[str]]:
    return packages_distributions()


def _distribution(name: str, seen: set[str]) -> set[Path]:
    if name.lower() in seen:
        return set()
    seen.add(name.lower())
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:
        return set()  # An extra that is not installed.
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    files = {Path(str(found.locate_file(top))) for top in tops}
    for text in found.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            files |= _distribution(needed.name, seen)
    return files


def _files(sources: Iterable[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    """List all files and links below the sources with size and time, without what no program may read."""
    hidden = set(map(str, (*interpreter.project(), *interpreter.held_back())))
    for source in map(str, sources):
        if os.path.isdir(source) and not os.path.islink(source):
            for folder, inner, names in os.walk(source):
                inner[:] = sorted(one for one in inner if one not in _LEFT_OUT and f"{folder}/{one}" not in hidden)
                for name in sorted(one for one in names if not one.endswith(_ENDINGS)):
                    yield f"{folder}/{name}", _facts(f"{folder}/{name}")
        elif os.path.exists(source) and source not in hidden:
            yield source, _facts(source)


def _facts(path: str) -> tuple[int, int]:
    """Return size and time of the last change."""
    found = os.lstat(path)
    return found.st_size, found.st_mtime_ns


def _fill(place: Path, files: Iterable[str]) -> None:
    """Copy files to their own paths below `place`, with the libraries that they need."""
    found = dict.fromkeys(_reached(files))
    programs = [path for path in found if ".so" in path or "/bin/" in path]
    found |= dict.fromkeys(_reached(_libraries(programs)))
    # Times of modules must stay: by them Python knows whether their byte code is theirs.
    _do(
        ["cp", "--no-dereference", "--preserve=mode,timestamps,links", "--parents", "--target-directory", str(place)],
        (path.lstrip("/") for path in found),
    )
    _do(["chmod", "-R", "u=rwX,go=rX"], [str(place)])


def _reached(files: Iterable[str]) -> Iterator[str]:
    """Yield files under their real directories, and after a link all that it leads to."""
    folders: dict[str, str] = {}
    for file in files:
        path = file
        while path:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = f"{folders[folder]}/{name}"
            if os.path.exists(real):
                yield real
            path = os.path.join(folders[folder], os.readlink(real)) if os.path.islink(real) else ""


def _do(command: Sequence[str], words: Iterable[str]) -> None:
    """Run a command on many words.

    Raises:
        OSError: it fails.
    """
    text = "\0".join(words)
    done = subprocess.run(["xargs", "-0", *command], input=text, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise OSError(done.stderr.strip()[:500])


def _libraries(programs: Sequence[str]) -> set[str]:
    """Find the shared libraries of programs and extension modules.

    Raises:
        SandboxError: there is no `ldd`.
    """
    found = set[str]()
    for first in range(0, len(programs), _BATCH):
        words = ["ldd", *programs[first : first + _BATCH]]
        try:
            said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        except OSError as error:
            raise SandboxError(f"the libraries of programs cannot be found: {error}", where="sandbox") from error
        for line in said.splitlines():
            found |= {word for word in line.split() if word.startswith("/") and not word.endswith(":")}
    return found


def _fill_flat(place: Path, source: Path) -> None:
    _do(["cp", "-R", "--preserve=mode,timestamps", "--no-target-directory", f"{source}/."], [str(place)])
    _do(["chmod", "-R", "u=rwX,go=rX"], [str(place)])


def _made(key: str, fill: Callable[[Path], None], size: int) -> Path:
    """Return the directory of this key, which is filled if it is not there yet."""
    folder = hold()
    place = folder / key
    if place.is_dir():
        return place
    room = shutil.disk_usage(folder).free * _SHARE
    if size > room:
        what = f"what programs read does not fit into memory: {size / 1e6:.0f} MB, with {room / 1e6:.0f} MB to take"
        raise SandboxError(what, where=str(MEMORY), hint=f"make {MEMORY} larger, or declare fewer modules")
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{key[:8]}."))
    try:
        fill(staging)
        staging.chmod(0o755)
        with suppress(FileExistsError):
            staging.rename(place)  # Another process may have been quicker.
    except OSError as error:
        if not place.is_dir():
            raise SandboxError(f"what programs read cannot be copied: {error}", where=str(folder)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return place


def hold() -> Path:
    """Return this user's directory of images, which stays while this process lives.

    Raises:
        SandboxError: there is no memory to write to, or the directory belongs to another user.
    """
    folder = MEMORY / f"sia-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SandboxError(f"no memory can be written: {error.strerror}", where=str(MEMORY)) from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o077 or not folder.is_dir():
        raise SandboxError("belongs to another user, or is open to others", where=str(folder), hint="remove it")
    if not _held:
        _held.append(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600))
        fcntl.flock(_held[0], fcntl.LOCK_SH)
        atexit.register(_leave, folder)
    return folder


def _leave(folder: Path) -> None:
    """Remove the images if no other process uses them."""
    with suppress(OSError):
        fcntl.flock(_held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        for one in folder.iterdir():
            if one.name != "lock":
                shutil.rmtree(one, ignore_errors=True)

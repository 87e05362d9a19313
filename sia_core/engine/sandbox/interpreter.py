"""Directories that a program must read for the running interpreter to work, and those hidden below them.

A program reads parts of the interpreter's prefixes, the directories of installed packages, and the system's libraries.
Every tier hides what lies below these directories and is no program's business: SIA's source, the data sets inside
installed packages that tasks hold back, and your own directories.
"""

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from sia_core.domain.errors import SandboxError

INSIDE = Path(__file__).parent / "inside"
SYSTEM = ("/lib", "/lib64", "/lib32", "/bin")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")

_PARTS = ("bin", "include", "lib", "lib64", "pyvenv.cfg", "share/zoneinfo")
"""Parts of a prefix that Python and its packages read."""
_SOURCE = Path(__file__).resolve().parents[3]
_PRIVATE = ("sia_core", "flows", "tasks", "tests", "bench", ".git", ".sia", "mlruns")
_DATA = (("scanpy", "datasets"), ("celltypist", "data"))
"""Packages, and their directories of data that a task of SIA scores by (tasks/denoising)."""
_hidden: set[Path] = set()
"""Places that `hide` was given."""


def prefixes() -> list[Path]:
    """Return the parts of the running interpreter's prefixes that a program needs, none below another or /usr.

    A prefix itself may hold anything: a virtual environment is often made where a project, a home or SIA_HOME is.

    Raises:
        SandboxError: the prefix is a home, or a directory whose parts belong to the machine or to all users.
    """
    names = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    names |= {os.path.realpath(name) for name in names}
    names.add(str(Path(sys.executable).resolve().parents[1]))
    kept: list[Path] = []
    for path in sorted(map(Path, names)):
        if path in (Path("/"), Path.home(), Path("/home"), Path("/tmp"), Path("/root")):
            raise SandboxError(
                f"the interpreter's prefix {path} would expose private files",
                where="sandbox",
                hint="run from a virtual environment in a separate directory",
            )
        parts = [path / name for name in _PARTS]
        kept += [part for part in parts if part.exists() and not covered(part, [Path("/usr"), *kept])]
    return kept


def extra_paths() -> list[str]:
    """Directories of installed packages on `sys.path` that no prefix covers."""
    packages = (Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    return [str(path) for path in packages if path.is_dir() and not covered(path, prefixes())]


def bound() -> list[Path]:
    """Return /usr, the interpreter's prefixes, and directories of installed packages."""
    return [Path("/usr"), *prefixes(), *map(Path, extra_paths())]


def hide(*places: Path) -> None:
    """Keep places from all programs of sandboxes that this process opens from now on."""
    _hidden.update(place.resolve() for place in places)


def yours() -> list[Path]:
    """List the places that are yours alone: SIA_HOME, your home, the working directory, and what `hide` was given."""
    asked = os.environ.get("SIA_HOME", "").strip()
    places = {Path(asked).expanduser() if asked else Path.home() / ".sia", Path.home(), *_hidden}
    with suppress(FileNotFoundError):  # The working directory may have been removed.
        places.add(Path.cwd())
    found = {place.absolute() for place in places} | {place.resolve() for place in places}
    return sorted(found - {Path("/")})


def private(roots: list[Path]) -> list[Path]:
    """List the directories below any of `roots` that no program may read.

    They are this project's source, data that tasks hold back, and places that are yours. A place that holds one of
    `roots` is none of them: of it, only `roots` are shown.

    Raises:
        SandboxError: one of `roots` itself is yours.
    """
    found = [*project(), *held_back(), *yours()]
    if wrong := [path for path in _hidden if path in roots]:
        what = f"{wrong[0]} is private, and programs must read it: the interpreter or the system lies there"
        raise SandboxError(what, where="sandbox", hint="copy it to another directory")
    kept: list[Path] = []
    for path in sorted(found):
        if path.is_dir() and covered(path, roots) and not holds(path, roots) and not covered(path, kept):
            kept.append(path)
    return kept


def is_package(name: str) -> bool:
    """Return True for the name of an installed package, neither of the standard library nor of this project."""
    if name in sys.stdlib_module_names or name in (*_PRIVATE, "sia_sdk"):
        return False
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def project() -> list[Path]:
    """List the directories of this project's source."""
    return [_SOURCE / name for name in _PRIVATE]


def held_back() -> list[Path]:
    """List the directories of data inside installed packages that tasks hold back."""
    specs = [(find_spec(package), folder) for package, folder in _DATA]
    return [Path(spec.origin).parent / folder for spec, folder in specs if spec is not None and spec.origin]


def holds(path: Path, roots: list[Path]) -> bool:
    """Return True if one of `roots` is `path` or lies below it."""
    return any(root.is_relative_to(path) for root in roots)


def covered(path: Path, roots: list[Path]) -> bool:
    """Return True if `path` is one of `roots` or lies below one."""
    return any(path.is_relative_to(root) for root in roots)

"""Directories that a program must read for the running interpreter to work, and those hidden below them.

A program reads the interpreter's prefixes, the directories of installed packages, and the system's libraries. Every
tier hides SIA's source below these directories, and the data sets inside installed packages that tasks hold back.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from sia_core.domain.errors import SandboxError

INSIDE = Path(__file__).parent / "inside"
SYSTEM = ("/lib", "/lib64", "/lib32", "/bin")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")

_SOURCE = Path(__file__).resolve().parents[3]
_PRIVATE = ("sia_core", "flows", "tasks", "tests", "bench", ".git", ".sia", "mlruns")
_DATA = (("scanpy", "datasets"), ("celltypist", "data"))
"""Packages, and their directories of data that a task of SIA scores by (tasks/denoising)."""


def prefixes() -> list[Path]:
    """Return the directories of the running interpreter, outermost first, none below another or /usr."""
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
        if not covered(path, [Path("/usr"), *kept]):
            kept.append(path)
    return kept


def extra_paths() -> list[str]:
    """Directories of installed packages on `sys.path` that no prefix covers."""
    packages = (Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    return [str(path) for path in packages if path.is_dir() and not covered(path, prefixes())]


def bound() -> list[Path]:
    """Return /usr, the interpreter's prefixes, and directories of installed packages."""
    return [Path("/usr"), *prefixes(), *map(Path, extra_paths())]


def private(roots: list[Path]) -> list[Path]:
    """Directories of this project, and of data that tasks hold back, below any of `roots`."""
    paths = [*(_SOURCE / name for name in _PRIVATE), *_held_back()]
    return [path for path in paths if path.is_dir() and covered(path, roots)]


def _held_back() -> list[Path]:
    specs = [(find_spec(package), folder) for package, folder in _DATA]
    return [Path(spec.origin).parent / folder for spec, folder in specs if spec is not None and spec.origin]


def covered(path: Path, roots: list[Path]) -> bool:
    """Return True if `path` is one of `roots` or lies below one."""
    return any(path.is_relative_to(root) for root in roots)

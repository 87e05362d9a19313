"""Start the zygote of the tier `landlock`: the interpreter itself, without a wrapper.

Landlock gets a list of the readable paths, the ones that a strict sandbox binds. As root, each zygote has
its own user id, so every directory on the list must be open to others.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.domain.errors import SandboxError
from sia_core.engine.sandbox import interpreter
from sia_core.engine.sandbox.inside import kernel
from sia_core.engine.sandbox.protocol import Tier

WHERE = "sandbox tier landlock"
_LEAST = 3
_NOBODY = 65533
_BOOT = """
import sys, importlib.util as util
spec = util.spec_from_file_location("sia_inside", {init!r}, submodule_search_locations=[{inside!r}])
sys.modules["sia_inside"] = package = util.module_from_spec(spec)
spec.loader.exec_module(package)
from sia_inside import zygote
zygote.main({control}, {config})
"""


@dataclass(frozen=True)
class Bare:
    """Launcher of the tier `landlock`."""

    sdk: Path | None
    shared: Path | None = None

    tier: Tier = "landlock"
    gentle: bool = True
    """True, because the guard above the zygote ends its descendants on request."""

    def command(self, control: int, config: int) -> list[str]:
        """Arguments of the process that becomes guard and zygote; the two descriptors are inherited."""
        inside = interpreter.INSIDE
        boot = _BOOT.format(init=str(inside / "__init__.py"), inside=str(inside), control=control, config=config)
        return [sys.executable, "-s", "-P", "-B", "-c", boot]

    def settings(self) -> dict[str, Any]:
        """Return the zygote's settings. Raises SandboxError if Landlock or file modes do not allow the tier."""
        require_landlock(kernel.landlock_version())
        roots = [*interpreter.bound(), *(path.resolve() for path in (self.sdk, self.shared) if path)]
        readable, listed = _around(roots, interpreter.private(interpreter.bound()))
        readable += [Path(name) for name in (*interpreter.SYSTEM, *interpreter.SYSTEM_FILES) if Path(name).exists()]
        root = os.geteuid() == 0
        if root:
            _require_open_to_others([*roots, Path(tempfile.gettempdir())])
        return {
            "namespaces": False,
            "sdk": [str(self.sdk.resolve())] if self.sdk else [],
            "uid": _NOBODY if root else None,
            "readable": list(map(str, readable)),
            "listed": list(map(str, listed)),
            "temporary": tempfile.gettempdir(),
            "parent": os.getpid(),
        }

    def hint(self, line: str) -> str:  # noqa: ARG002 - there is one hint
        """Return the hint for a process that did not start."""
        return "run `sia doctor`; as root the capabilities CAP_SETUID and CAP_SETGID are needed"


def require_landlock(version: int) -> None:
    """Raise SandboxError if Landlock is missing, or too old to prevent the truncation of files."""
    if version < _LEAST:
        found = f"version {version} of Landlock" if version else "no Landlock"
        raise SandboxError(
            f"this kernel offers {found}; version {_LEAST} is needed",
            where=WHERE,
            hint="use Linux 6.2 or later with `landlock` in its boot parameter lsm=, and in a container a seccomp "
            "profile that allows the landlock calls; or use the tier strict, which does not need Landlock",
        )


def _around(roots: list[Path], hidden: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return `roots` without `hidden`: paths to read in full, and parents of hidden paths to list.

    Landlock cannot exclude a directory from an allowed one, so the siblings of a hidden path are allowed instead,
    except links that lead to hidden paths, such as `lib64` of a virtual environment, which links to `lib`.
    """
    hidden = [*hidden, *(path.resolve() for path in hidden)]
    readable, listed, todo = list[Path](), list[Path](), list(roots)
    while todo:
        path = todo.pop()
        if path in hidden:
            continue
        if any(other.is_relative_to(path) for other in hidden):
            listed.append(path)
            todo += [child for child in path.iterdir() if child.exists() and not _leads_to(child, hidden)]
        else:
            readable.append(path)
    return readable, listed


def _leads_to(path: Path, hidden: list[Path]) -> bool:
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(other.is_relative_to(target) or target.is_relative_to(other) for other in hidden)


def _require_open_to_others(paths: list[Path]) -> None:
    for path in paths:
        for folder in (path, *path.parents) if path.is_dir() else path.parents:
            if not folder.stat().st_mode & 0o001:
                raise SandboxError(
                    f"{folder} is closed to other users, and programs run as another user because SIA is root",
                    where=WHERE,
                    hint=f"run as the owner of {path}, use an interpreter that every user can read "
                    "(such as /usr/bin/python3), or set TMPDIR to a directory open to every user",
                )

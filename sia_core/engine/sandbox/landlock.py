"""The tier `landlock`: the same zygote without bubblewrap, for machines without user namespaces.

A program is confined by Landlock, seccomp, resource limits and, as root, its own user id, but shares process ids,
mounts and the file system with the machine. So its directory is an ordinary one under TMPDIR. The directory's size
is watched, not limited by the kernel, so a fast writer may exceed the limit for a moment. A program can see names,
sizes and times of other files, but not contents.
"""

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.engine.sandbox.bare import WHERE, Bare
from sia_core.engine.sandbox.bubblewrap import DEFAULT_MODULES
from sia_core.engine.sandbox.forked import ForkedSandbox
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.launch import Zygote
from sia_core.engine.sandbox.supervise import Guard
from sia_core.engine.sandbox.watchdog import FolderGuard, TreeGuard, both

_ABSENT = ("mount namespace", "pid namespace", "network namespace", "ipc namespace", "user namespace")
_LATER: Mapping[int, str] = {4: "landlock network", 5: "landlock devices", 6: "landlock scopes"}
_SCOPES = 6


class LandlockSandbox(ForkedSandbox):
    """Runs untrusted programs under Landlock. Not thread-safe: one per worker.

    The first start raises SandboxError if the kernel has no Landlock, or a version that is too old.
    """

    def __init__(
        self, *, modules: Sequence[str] = DEFAULT_MODULES, sdk: Path | None = None, shared: Path | None = None
    ) -> None:
        super().__init__(Bare(sdk, shared), modules)
        self._numbers = itertools.count()

    def _box(self, zygote: Zygote) -> str:
        return f"{zygote.folder}/{next(self._numbers)}"

    def _guard(self, box: str, limits: Limits) -> Guard | None:
        version = self.start().landlock
        if limits.subprocesses and version < _SCOPES:
            raise SandboxError(
                f"subprocesses need version {_SCOPES} of Landlock (Linux 6.12), this kernel has {version}",
                where=WHERE,
                hint="use the tier strict for a harness that needs subprocesses",
            )
        folder = FolderGuard(Path(box), limits)
        return both(folder, TreeGuard(limits)) if limits.subprocesses else folder

    def _judge(self, result: SandboxResult, limits: Limits) -> SandboxResult:
        """A disk that others filled is not the program's fault."""
        if result.status == "disk" and self._free_mb() < limits.disk_mb:
            reason = f"less than {limits.disk_mb} MB are free in the directory for temporary files"
            return replace(result, status="infrastructure", reason=reason)
        return result

    def _free_mb(self) -> float:
        try:
            found = os.statvfs(self.start().folder)
        except (OSError, SandboxError):
            return 0.0
        return found.f_bavail * found.f_frsize / (1 << 20)

    def _left(self, box: str) -> None:
        with contextlib.suppress(OSError):  # the rest is removed with the zygote
            tree.remove(box)


def missing_layers(landlock: int) -> tuple[str, ...]:
    """Return the layers of the strict tier that the tier `landlock` lacks."""
    return (*_ABSENT, *(name for version, name in _LATER.items() if landlock < version))

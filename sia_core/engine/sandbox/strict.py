"""The strict tier: bubblewrap around the zygote, and separate namespaces for every program."""

from collections.abc import Sequence
from pathlib import Path

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox.bubblewrap import Bubblewrap, find_bubblewrap
from sia_core.engine.sandbox.forked import ForkedSandbox
from sia_core.engine.sandbox.supervise import Guard
from sia_core.engine.sandbox.watchdog import TreeGuard

DEFAULT_MODULES = ("numpy", "scipy.sparse.linalg")


class StrictSandbox(ForkedSandbox):
    """Runs untrusted programs under every layer. Not thread-safe: one per worker."""

    def __init__(
        self,
        *,
        modules: Sequence[str] = DEFAULT_MODULES,
        sdk: Path | None = None,
        bwrap: str | None = None,
        shared: Path | None = None,
    ) -> None:
        super().__init__(Bubblewrap(find_bubblewrap(bwrap), sdk, shared), modules)

    def _guard(self, box: str, limits: Limits) -> Guard | None:  # noqa: ARG002 - not used in this tier
        return TreeGuard(limits) if limits.subprocesses else None

"""Open a sandbox of exactly the requested tier, or refuse.

A sandbox is returned only after its own self-test, so that a kernel or container setting that silently
disables a layer is found before any untrusted code runs.
"""

from collections.abc import Sequence
from pathlib import Path

from sia_core.domain.errors import SandboxError
from sia_core.engine.sandbox.bubblewrap import DEFAULT_MODULES, SHARED_INSIDE, StrictSandbox
from sia_core.engine.sandbox.forked import ForkedSandbox
from sia_core.engine.sandbox.landlock import LandlockSandbox, missing_layers
from sia_core.engine.sandbox.plain import UnconfinedSubprocess
from sia_core.engine.sandbox.probes import digest, failures, run_probes
from sia_core.engine.sandbox.protocol import Sandbox, Tier, TierReport


def probe(bwrap: str | None = None, *, modules: Sequence[str] = DEFAULT_MODULES, tier: Tier = "strict") -> TierReport:
    """Start a sandbox of this tier, test it and close it. Raises SandboxError if the self-test fails."""
    sandbox = _make(tier, modules, None, bwrap)
    try:
        return _tested(sandbox, modules)
    finally:
        sandbox.close()


def open_sandbox(
    tier: Tier = "strict",
    *,
    modules: Sequence[str] = DEFAULT_MODULES,
    sdk: Path | None = None,
    shared: Path | None = None,
    packages: Sequence[str] = (),
    compilers: bool = False,
) -> Sandbox:
    """Open a tested sandbox of exactly this tier. Raises SandboxError if it is not available.

    Args:
        modules: modules imported once, before any program runs (not in the tier none).
        sdk: directory from which programs can import.
        shared: directory that programs can read, at `shared_path`.
        packages: further packages that programs can import, beyond those of every sandbox.
        compilers: show programs all of the machine's /usr, in which they can leave traces for one another.
    """
    if tier == "none":
        return UnconfinedSubprocess(sdk=sdk)
    sandbox = _make(tier, modules, sdk, shared=shared, packages=packages, compilers=compilers)
    try:
        _tested(sandbox, modules)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def shared_path(tier: Tier, shared: Path) -> str:
    """Return the path of the directory `shared` for programs of this tier."""
    return SHARED_INSIDE if tier == "strict" else str(shared.resolve())


def _make(
    tier: Tier,
    modules: Sequence[str],
    sdk: Path | None,
    bwrap: str | None = None,
    shared: Path | None = None,
    *,
    packages: Sequence[str] = (),
    compilers: bool = False,
) -> ForkedSandbox:
    if tier == "strict":
        return StrictSandbox(
            modules=modules, sdk=sdk, bwrap=bwrap, shared=shared, packages=packages, compilers=compilers
        )
    if tier == "landlock":
        return LandlockSandbox(modules=modules, sdk=sdk, shared=shared)
    raise SandboxError(f"no tier {tier!r} can be tested", where="sandbox", hint="use strict, or landlock")


def _tested(sandbox: ForkedSandbox, modules: Sequence[str]) -> TierReport:
    try:
        landlock = sandbox.start().landlock
        outcomes = run_probes(sandbox, modules)
    except OSError as error:
        raise SandboxError(
            f"the self-test cannot be prepared: {error}",
            where=f"sandbox tier {sandbox.tier}",
            hint="free some space and descriptors, or set TMPDIR to a directory with space left",
        ) from error
    wrong = failures(outcomes)
    if wrong:
        listed = "; ".join(f"{name}: {outcome}" for name, outcome in wrong.items())
        raise SandboxError(
            f"the self-test failed ({listed})",
            where=f"sandbox tier {sandbox.tier}",
            hint="run `sia doctor`; do not run untrusted code on this machine until it passes",
        )
    missing = missing_layers(landlock) if sandbox.tier == "landlock" else () if landlock else ("landlock",)
    return TierReport(sandbox.tier, (*missing, *sandbox.missing), digest(outcomes), outcomes)

"""Opens a sandbox of the demanded tier, or refuses; never a weaker one than was asked for.

A strict sandbox is handed out only after its own self-test, so that a kernel or container setting
that quietly took a layer away is found before any untrusted code runs.
"""

from collections.abc import Sequence
from pathlib import Path

from sia_core.engine.sandbox.plain import UnconfinedSubprocess
from sia_core.engine.sandbox.probes import digest, failures, run_probes
from sia_core.engine.sandbox.protocol import Sandbox, Tier, TierReport
from sia_core.engine.sandbox.strict import DEFAULT_MODULES, StrictSandbox
from sia_core.errors import SandboxError

_WHERE = "sandbox tier strict"


def probe(bwrap: str | None = None, *, modules: Sequence[str] = DEFAULT_MODULES) -> TierReport:
    """Start a strict sandbox, test it and close it. Raises SandboxError when it does not hold."""
    sandbox = StrictSandbox(modules=modules, bwrap=bwrap)
    try:
        return _tested(sandbox, modules)
    finally:
        sandbox.close()


def open_sandbox(
    tier: Tier = "strict", *, modules: Sequence[str] = DEFAULT_MODULES, sdk: Path | None = None
) -> Sandbox:
    """A tested sandbox of exactly this tier. Raises SandboxError when it cannot be had.

    `modules` are imported once, before any program runs (strict only); `sdk` is a directory that
    programs can import from.
    """
    if tier == "none":
        return UnconfinedSubprocess(sdk=sdk)
    if tier != "strict":
        raise SandboxError(
            f"the tier {tier!r} is not offered by this version",
            where="sandbox",
            hint="use strict; or none, which confines nothing, for code that you trust",
        )
    sandbox = StrictSandbox(modules=modules, sdk=sdk)
    try:
        _tested(sandbox, modules)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _tested(sandbox: StrictSandbox, modules: Sequence[str]) -> TierReport:
    zygote = sandbox.start()
    outcomes = run_probes(sandbox, modules)
    wrong = failures(outcomes)
    if wrong:
        listed = "; ".join(f"{name}: {outcome}" for name, outcome in wrong.items())
        raise SandboxError(
            f"the self-test failed ({listed})",
            where=_WHERE,
            hint="run `sia doctor`; do not run untrusted code on this machine until it passes",
        )
    missing = () if zygote.landlock else ("landlock",)
    return TierReport("strict", missing, digest(outcomes), outcomes)

"""Runs code that a model wrote: tiers named by what they hold, tested before use, never degraded.

`strict` is bubblewrap, namespaces, seccomp, resource limits and, where the kernel has it, Landlock.
`landlock` is for machines without user namespaces, as inside some container engines: Landlock, seccomp
and resource limits; weaker, and only on explicit demand. `none` is a plain subprocess, and confines
nothing; on explicit demand only.
"""

from sia_core.engine.sandbox.protocol import Sandbox, Tier, TierReport
from sia_core.engine.sandbox.select import open_sandbox, probe, shared_path

__all__ = ["Sandbox", "Tier", "TierReport", "open_sandbox", "probe", "shared_path"]

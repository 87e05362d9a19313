"""Runs code that a model wrote: tiers named by what they hold, tested before use, never degraded.

`strict` is bubblewrap, namespaces, seccomp, resource limits and, where the kernel has it, Landlock.
`none` is a plain subprocess, on explicit demand only. A tier `landlock`, for machines without user
namespaces, is not offered yet: asking for it is refused.
"""

from sia_core.engine.sandbox.protocol import Sandbox, Tier, TierReport
from sia_core.engine.sandbox.select import open_sandbox, probe

__all__ = ["Sandbox", "Tier", "TierReport", "open_sandbox", "probe"]

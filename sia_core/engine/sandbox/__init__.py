"""Run code that a model wrote, in sandbox tiers that are tested before use and never degraded.

| tier | layers |
|---|---|
| `strict` | bubblewrap, namespaces, seccomp, resource limits and, if the kernel has it, Landlock |
| `landlock` | Landlock, seccomp, resource limits: weaker, for machines without user namespaces, on explicit request |
| `none` | a plain subprocess that confines nothing, on explicit request |
"""

from sia_core.engine.sandbox.interpreter import hide
from sia_core.engine.sandbox.protocol import Sandbox, Tier, TierReport
from sia_core.engine.sandbox.select import open_sandbox, probe, shared_path

__all__ = ["Sandbox", "Tier", "TierReport", "hide", "open_sandbox", "probe", "shared_path"]

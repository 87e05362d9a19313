"""Classify how a program ended, by its exit, its killer, and the last line of its output.

The program caused all of these ends. Failures of the sandbox itself are handled elsewhere, so that an
infrastructure failure cannot become a score.
"""

import os
import re
import signal
from dataclasses import dataclass
from typing import Literal

from sia_core.domain.lab import Limits, SandboxStatus

Killer = Literal["timeout", "cpu", "output", "memory", "disk"]

_REASON_CHARS = 300
_MEMORY = re.compile(r"^[\w.]*MemoryError\b|Errno 12\]")
_DISK = re.compile(r"Errno (27|28|122)\]")


@dataclass(frozen=True)
class Exit:
    """End of the process. `wait_status` is the status of wait(2)."""

    wait_status: int
    cpu_s: float
    killed_for: Killer | None
    stderr: str
    overflow: bool
    """True if the output exceeded the cap."""


def classify(end: Exit, limits: Limits) -> tuple[SandboxStatus, str]:
    """Return the status, and the reason in one line (empty for ok)."""
    if end.overflow or end.killed_for == "output":
        return "output", f"wrote more than {limits.output_kb} KB to standard output or standard error"
    code = os.waitstatus_to_exitcode(end.wait_status)
    if code == 0:
        return "ok", ""
    if code < 0:
        return _signalled(-code, end, limits)
    return _failed(code, end.stderr)


def _signalled(number: int, end: Exit, limits: Limits) -> tuple[SandboxStatus, str]:
    if number == signal.SIGKILL and end.killed_for is not None:
        return _killed(end.killed_for, limits)
    if number in (signal.SIGKILL, signal.SIGXCPU):
        # No process inside can kill pid 1: this was the CPU limit, or the machine was out of memory.
        # The kernel enforces the limit by clock ticks and reports the time by another clock.
        if end.cpu_s >= 0.9 * limits.cpu_s - 0.25:
            return "timeout", f"used more than {limits.cpu_s:g} s of CPU time"
        return "memory", "killed by the kernel, most likely for want of memory"
    return "error", f"ended by {signal.Signals(number).name}"


def _killed(why: Killer, limits: Limits) -> tuple[SandboxStatus, str]:
    if why == "cpu":
        return "timeout", f"used more than {limits.cpu_s:g} s of CPU time"
    if why == "memory":
        return "memory", f"its processes used more than {limits.memory_mb} MB together"
    if why == "disk":
        return "disk", f"its directory held more than {limits.disk_mb} MB, or too many files"
    return "timeout", f"ran longer than {limits.wall_s:g} s"


def _failed(code: int, stderr: str) -> tuple[SandboxStatus, str]:
    lines = stderr.strip().splitlines()
    last = lines[-1].strip()[:_REASON_CHARS] if lines else f"exit code {code}"
    if _MEMORY.search(last):
        return "memory", last
    if _DISK.search(last):
        return "disk", last
    return "error", last

"""One rollout, from unit to terminal record, in the trusted process of a worker.

Playing runs the harness in one sandbox and its programs in another, so that neither sees the other's files.
Grading verifies the answer after the harness is dead, possibly in another worker with other resources.
"""

import errno
import math
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import SandboxError, TaskError
from sia_core.domain.harness import Harness
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.domain.rollout import Failure, Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.gateway import Gateway
from sia_core.engine.live_program import SandboxProgram
from sia_core.engine.sandbox import hide, interpreter, open_sandbox, shared_path
from sia_core.engine.sandbox.protocol import Sandbox, Tier
from sia_core.host.retrying import Schedule
from sia_core.policy.protocol import Policy

SDK = Path(__file__).parent / "sdk"
BOOT = b"import sia_sdk\nsia_sdk.main()\n"
BOOT_NAME = "_sia_boot.py"
RETRY = Schedule(attempts=3, first_s=1.0, jitter=0.0)
STDERR_TAIL = 2000
NUMERICAL = (b"numpy", b"scipy")
MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EROFS, errno.EAGAIN)
)
"""Errors of the operating system that no answer can cause: full disks, used-up resources, failing hardware."""


_IMPORT = re.compile(rb"^\s*(?:from|import)\s+([A-Za-z_]\w*)", re.MULTILINE)


def packages_of(task: Task) -> tuple[str, ...]:
    """Find the packages that a task's first harness imports, or names in its programs: all of them may use these.

    They are the same in each sandbox of the task. If a rewritten harness could add packages, it could leave a trace for
    another one by what has been copied.
    """
    files = (file for file in sorted((task.path / task.config.harness).rglob("*")) if file.is_file())
    names = {name.decode() for file in files for name in _IMPORT.findall(file.read_bytes())}
    return tuple(sorted(name for name in names if interpreter.is_package(name)))


class SandboxLab:
    """Lab of the verifier: a sandbox whose failures are raised, never scored."""

    def __init__(self, sandbox: Sandbox, packages: Sequence[str] = ()) -> None:
        self._sandbox = sandbox
        self._packages = tuple(packages)
        self._plain: Sandbox | None = None
        self._building: Sandbox | None = None
        self._idle: dict[tuple[str, ...], list[Sandbox]] = {}
        """Idle sandboxes of earlier programs, by imported modules."""

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Run a program. Raises SandboxError if the sandbox itself failed."""
        result = self._suited(files, limits).run(files, limits, entry=entry, collect=collect)
        if result.status == "infrastructure":
            raise SandboxError(result.reason, where="sandbox")
        return result

    def open(
        self,
        files: Mapping[str, bytes],
        limits: Limits,
        *,
        entry: str = "main.py",
        memory_bytes: int = 0,
        modules: Sequence[str] = (),
    ) -> SandboxProgram:
        """Start a program in a separate sandbox, which later programs reuse. Raises SandboxError."""
        idle = self._idle.setdefault(tuple(modules), [])
        sandbox = idle.pop() if idle else open_sandbox(self._sandbox.tier, modules=modules, packages=self._packages)
        try:
            return SandboxProgram(
                sandbox, files, limits, entry=entry, memory_bytes=memory_bytes, release=lambda: idle.append(sandbox)
            )
        except BaseException:
            if sandbox not in idle:
                sandbox.close()
            raise

    def _suited(self, files: Mapping[str, bytes], limits: Limits) -> Sandbox:
        """Return the sandbox with numpy and scipy for programs that name them, else one that forks in half the time.

        A program that needs numpy or scipy through another package imports them itself. One that makes native code by
        other programs needs the machine's compilers.
        """
        if limits.native and limits.subprocesses and self._sandbox.tier == "strict":
            return self._builder()
        if self._sandbox.tier == "none" or any(name in data for data in files.values() for name in NUMERICAL):
            return self._sandbox
        if self._plain is None:
            self._plain = open_sandbox(self._sandbox.tier, modules=(), packages=self._packages)
        return self._plain

    def _builder(self) -> Sandbox:
        """Return the sandbox for programs that compile others."""
        if self._building is None:
            self._building = open_sandbox(self._sandbox.tier, modules=(), compilers=True)
        return self._building

    def close(self) -> None:
        """End the sandboxes that this lab opened, but not the given one."""
        for sandbox in (self._plain, self._building):
            if sandbox is not None:
                sandbox.close()
        self._plain = self._building = None
        for sandboxes in self._idle.values():
            while sandboxes:
                sandboxes.pop().close()


class RolloutRunner:
    """Plays and grades units of one task; opens sandboxes on demand. Not thread-safe."""

    def __init__(self, task: Task, tier: Tier) -> None:
        hide(task.path)
        self._task = task
        self._packages = packages_of(task)
        self._tier: Tier = tier
        self._harness_sandboxes: dict[tuple[str, ...], Sandbox] = {}

    def run(self, unit: Unit, harness: Harness, adapter: Adapter | None, policy: Policy) -> Rollout:
        """Play and grade `unit`; return its terminal record."""
        return self.grade(self.play(unit, harness, adapter, policy))

    def play(
        self, unit: Unit, harness: Harness, adapter: Adapter | None, policy: Policy, *, seconds: float = math.inf
    ) -> Rollout:
        """Run the harness; return a record without verdict. A failure of the sandbox is retried.

        Args:
            seconds: wall-clock limit, besides those of task and harness.

        Raises:
            PolicyError: no rollout can use the policy.
        """
        return _retried(lambda: self._play(unit, harness, adapter, policy, seconds))

    def import_entry(self, harness: Harness, seconds: float) -> tuple[SandboxResult, int]:
        """Import the harness's entry only; return the result, and the number of bytes sent to the gateway."""
        ours, theirs = socket.socketpair()
        boot = f"import sia_sdk\nsia_sdk.check({harness.config.entry!r})\n".encode()
        with ours:
            with theirs:
                result = self._launch(harness, boot, seconds, theirs)
            ours.setblocking(False)
            try:
                return result, len(ours.recv(1 << 16))
            except BlockingIOError:
                return result, 0

    def grade(self, played: Rollout) -> Rollout:
        """Verify the answer. A failure of verifier or sandbox is retried, then recorded by owner."""
        return played if played.failure is not None else _retried(lambda: self._grade(played))

    def open(self) -> None:
        """Open the sandboxes that every unit needs.

        Raises:
            SandboxError: no sandbox of the requested tier is available.
        """
        _ = self._lab

    def close(self) -> None:
        """End the sandboxes."""
        if "_lab" in self.__dict__:
            self._lab.close()
        opened = [self.__dict__["_lab_sandbox"]] if "_lab_sandbox" in self.__dict__ else []
        for sandbox in (*opened, *self._harness_sandboxes.values()):
            sandbox.close()

    @cached_property
    def _lab_sandbox(self) -> Sandbox:
        return open_sandbox(self._tier, packages=self._packages)

    @cached_property
    def _lab(self) -> SandboxLab:
        return SandboxLab(self._lab_sandbox, self._packages)

    def _play(self, unit: Unit, harness: Harness, adapter: Adapter | None, policy: Policy, seconds: float) -> Rollout:
        started = time.perf_counter()
        problem = self._task.problem(unit.split, unit.problem)
        shared = self._task.shared
        where = "" if shared is None else shared_path(self._tier, shared)
        gateway = Gateway(unit, problem, harness, adapter, policy, self._lab, shared=where)
        result = self._run_harness(harness, gateway, seconds)
        if gateway.fatal is not None:
            raise gateway.fatal
        notes = [*gateway.notes, result.stderr[-STDERR_TAIL:]] if result.stderr else gateway.notes
        return Rollout(
            unit=unit,
            turns=tuple(gateway.turns),
            answer=gateway.answer,
            failure=_classify(gateway, result),
            notes=tuple(notes),
            seconds=round(time.perf_counter() - started, 4),
            trace=gateway.trace,
            programs=tuple(gateway.programs),
        )

    def _grade(self, played: Rollout) -> Rollout:
        started = time.perf_counter()
        problem = self._task.problem(played.unit.split, played.unit.problem)
        verdict, failure = None, None
        try:
            verdict = self._task.verify(problem, played.answer, self._lab, played.turns)
        except SandboxError as error:
            failure = Failure("sandbox", str(error)[:500])
        except TaskError as error:
            failure = Failure("unverified", error.what[:500])
        except Exception as error:  # noqa: BLE001  (task code may raise anything)
            # It scores 0: a harness could drop its worst answers by breaking the verifier if they were left out.
            kind = "verifier" if isinstance(error, OSError) and error.errno in MACHINE else "unverified"
            failure = Failure(kind, f"verify() raised {type(error).__name__}: {error}"[:500])
        took = round(time.perf_counter() - started, 4)
        seconds = round(played.seconds + took, 4)
        return replace(played, verdict=verdict, failure=failure, seconds=seconds, verify_seconds=took)

    def _run_harness(self, harness: Harness, gateway: Gateway, seconds: float) -> SandboxResult:
        ours, theirs = socket.socketpair()
        with theirs:
            gateway.serve(ours)
            result = self._launch(harness, BOOT, seconds, theirs)
        gateway.join()
        return result

    def _launch(self, harness: Harness, boot: bytes, seconds: float, stream: socket.socket) -> SandboxResult:
        limits = self._task.config.limits
        wall = min(limits.seconds, harness.config.budget.seconds, seconds)
        ceilings = Limits(
            wall_s=wall,
            cpu_s=wall,
            memory_mb=limits.memory_mb,
            disk_mb=limits.disk_mb,
            subprocesses="subprocesses" in harness.config.needs,
        )
        files = {**harness.files, BOOT_NAME: boot}
        return self._sandbox(harness).run(files, ceilings, entry=BOOT_NAME, stream=stream)

    def _sandbox(self, harness: Harness) -> Sandbox:
        modules = harness.config.modules
        if modules not in self._harness_sandboxes:
            # Imported before the fork, as compiling the SDK would take a third of a short rollout.
            self._harness_sandboxes[modules] = open_sandbox(
                self._tier, modules=(*modules, "sia_sdk"), sdk=SDK, shared=self._task.shared, packages=self._packages
            )
        return self._harness_sandboxes[modules]


def _retried(attempt: Callable[[], Rollout]) -> Rollout:
    """Retry a rollout that may have failed by this machine; the driver waits out other passing failures."""

    def once() -> Rollout:
        rollout = attempt()
        if rollout.failure is not None and rollout.failure.kind in ("sandbox", "verifier", "unverified"):
            raise _MachineError(rollout)
        return rollout

    try:
        return RETRY.run(once, lambda error: isinstance(error, _MachineError))
    except _MachineError as error:
        return error.rollout


class _MachineError(Exception):
    """A rollout failed, perhaps by this machine."""

    def __init__(self, rollout: Rollout) -> None:
        super().__init__(rollout.failure)
        self.rollout = rollout


def _classify(gateway: Gateway, result: SandboxResult) -> Failure | None:
    """Return the failure of a rollout, if any. An answer counts even if the process failed afterwards."""
    if gateway.failure is not None:
        return gateway.failure
    if gateway.answered:
        return None
    if result.status == "infrastructure":
        return Failure("sandbox", result.reason)
    if result.status == "ok":
        return Failure("invalid", "solve() ended without an answer")
    over_budget = gateway.budget.exceeded and result.status == "error"
    return Failure("budget" if over_budget else result.status, result.reason)

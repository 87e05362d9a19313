"""One rollout, from unit to terminal record, in the trusted process of a worker.

The harness runs in one sandbox; programs it or the verifier wants to run go to a second one,
so neither ever sees the other's files. The verifier runs after the harness is dead, on data.
"""

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sia_core.candidate import Adapter
from sia_core.engine.gateway import Gateway
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.sandbox.protocol import Sandbox, Tier
from sia_core.errors import SandboxError
from sia_core.harness import Harness
from sia_core.lab import Limits, SandboxResult
from sia_core.policy.protocol import Policy
from sia_core.rollout import Failure, Rollout, Unit
from sia_core.task import Task

SDK = Path(__file__).parent / "sdk"
BOOT = b"import sia_sdk\nsia_sdk.main()\n"
BOOT_NAME = "_sia_boot.py"
ATTEMPTS = 3
BACKOFF_S = 0.5
STDERR_TAIL = 2000


class SandboxLab:
    """The verifier's lab: a sandbox whose failures are raised, never scored."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Run a program; raises SandboxError when the sandbox itself failed."""
        result = self._sandbox.run(files, limits, entry=entry, collect=collect)
        if result.status == "infrastructure":
            raise SandboxError(result.reason, where="sandbox")
        return result


class RolloutRunner:
    """Runs units of one task. Holds two sandboxes; not thread-safe."""

    def __init__(self, task: Task, tier: Tier) -> None:
        self._task = task
        self._tier: Tier = tier
        self._lab_sandbox = open_sandbox(tier)
        self._lab = SandboxLab(self._lab_sandbox)
        self._harness_sandboxes: dict[tuple[str, ...], Sandbox] = {}

    def run(self, unit: Unit, harness: Harness, adapter: Adapter | None, policy: Policy) -> Rollout:
        """The terminal record of `unit`. Infrastructure failures are retried, then recorded as such."""
        for attempt in range(1, ATTEMPTS + 1):
            rollout = self._attempt(unit, harness, adapter, policy)
            if rollout.failure is None or not rollout.failure.infrastructure or attempt == ATTEMPTS:
                return rollout
            time.sleep(BACKOFF_S * 2**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End both sandboxes."""
        for sandbox in (self._lab_sandbox, *self._harness_sandboxes.values()):
            sandbox.close()

    def _attempt(self, unit: Unit, harness: Harness, adapter: Adapter | None, policy: Policy) -> Rollout:
        started = time.perf_counter()
        problem = self._task.problem(unit.split, unit.problem)
        gateway = Gateway(unit, problem, harness, adapter, policy, self._lab)
        result = self._run_harness(harness, gateway)
        failure = _classify(gateway, result)
        verdict = None
        if failure is None:
            try:
                verdict = self._task.verify(problem, gateway.answer, self._lab)
            except SandboxError as error:
                failure = Failure("sandbox", str(error)[:500])
            except Exception as error:  # noqa: BLE001  (whatever the task's code raises)
                # A verifier that crashes is a defect of the task, not a zero for the candidate.
                failure = Failure("verifier", f"{type(error).__name__}: {error}"[:500])
        notes = [*gateway.notes, result.stderr[-STDERR_TAIL:]] if result.stderr else gateway.notes
        return Rollout(
            unit=unit,
            turns=tuple(gateway.turns),
            answer=gateway.answer,
            verdict=verdict,
            failure=failure,
            notes=tuple(notes),
            seconds=round(time.perf_counter() - started, 4),
        )

    def _run_harness(self, harness: Harness, gateway: Gateway) -> SandboxResult:
        limits = self._task.config.limits
        wall = min(limits.seconds, harness.config.budget.seconds)
        ours, theirs = socket.socketpair()
        with theirs:
            gateway.serve(ours)
            result = self._sandbox(harness).run(
                {**harness.files, BOOT_NAME: BOOT},
                Limits(wall_s=wall, cpu_s=wall, memory_mb=limits.memory_mb),
                entry=BOOT_NAME,
                stream=theirs,
            )
        gateway.join()
        return result

    def _sandbox(self, harness: Harness) -> Sandbox:
        modules = harness.config.modules
        if modules not in self._harness_sandboxes:
            self._harness_sandboxes[modules] = open_sandbox(self._tier, modules=modules, sdk=SDK)
        return self._harness_sandboxes[modules]


def _classify(gateway: Gateway, result: SandboxResult) -> Failure | None:
    """Who is to blame. An answer that was given counts even if the process then ended badly."""
    if gateway.failure is not None:
        return gateway.failure
    if gateway.answered:
        return None
    if result.status == "infrastructure":
        return Failure("sandbox", result.reason)
    if result.status == "ok":
        return Failure("invalid", "solve() ended without an answer")
    over_budget = gateway.over_budget and result.status == "error"
    return Failure("budget" if over_budget else result.status, result.reason)

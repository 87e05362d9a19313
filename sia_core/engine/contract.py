"""The rungs `import` and `contract`: a rewritten harness alone in the sandbox, with a policy that misbehaves.

Each fault is a whole rollout on the public part of a training problem, against `scripted` replies that are spoilt in
one way. The harness must end by itself within its limits, with an answer or a clean failure: it may pass on an
exception of the gateway (`GatewayError`, or a client library's), but not raise its own.

| fault | replies |
|---|---|
| `plain` | whole replies without useful content |
| `empty` | no text |
| `truncated` | cut in the middle, finish `length` |
| `malformed` | a tool call, or without tools a text, that is not valid JSON |
| `garbage` | control characters, unusual scripts, no spaces, long |
| `refused` | the model refuses the request (status 400) |
| `unreachable` | the endpoint does not answer (429 or 503 for longer than the policy waits) |

An unreachable rollout is lost and will be played again, so the harness only has to end. `ctx.choose` returns an answer
under every fault except `empty` and `refused`, as a policy that is forced to choose does.

A hang under any fault rejects, and so do a crash on `plain`, `empty` or `truncated`, which every policy returns, and a
rollout without a request to the policy. A crash on other faults is a warning, and so is any fault that the parent has
too.
"""

import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import SandboxError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import RungResult
from sia_core.domain.rollout import Rollout, ToolCall, Unit
from sia_core.domain.task import Task
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.protocol import Completion, EndpointError, RejectedRequestError, Request
from sia_core.policy.scripted import ScriptedPolicy

Fault = Literal["plain", "empty", "truncated", "malformed", "garbage", "refused", "unreachable"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
GRAVE: Final[tuple[Fault, ...]] = ("plain", "empty", "truncated")
"""Faults for which a crash rejects."""
IMPORT_S: Final = 10.0
LEAST_S: Final = 10.0
SLOWER: Final = 4.0
"""Time limit of a fault as a multiple of the time with plain replies; at least LEAST_S."""
_CLEAN: Final = ("sia_sdk.", "openai.", "anthropic.", "httpx")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_GARBAGE: Final = "\x00\x1b[31m\u202e\ufeff\U0001f9ea\u0e3f\u0f04\ufffd{{}}%s\\u0000</s>" * 40


class FaultyPolicy(ScriptedPolicy):
    """`scripted`, with every reply spoilt in one way."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def sample(self, request: Request) -> Completion:
        """Return a spoilt reply, or raise the error of a missing one."""
        done = super().sample(request)
        if self.fault == "unreachable":
            raise EndpointError("no answer: 429: slow down", where="contract")
        if self.fault == "refused" or (self.fault == "empty" and request.options is not None):
            raise RejectedRequestError("refused (400): the model does not take this request", where="contract")
        return done if request.options is not None else self._spoil(done, request)

    def _spoil(self, done: Completion, request: Request) -> Completion:
        if self.fault == "empty":
            return replace(done, text="")
        if self.fault == "truncated":
            return replace(done, text=done.text[: len(done.text) // 2], finish="length")
        if self.fault == "garbage":
            start = random.Random(request.seed).randrange(40)
            return replace(done, text=_GARBAGE[start:])
        if self.fault != "malformed":
            return done
        if not request.tools:
            return replace(done, text='```json\n{"answer": [1, 2')
        name = str(request.tools[0]["function"]["name"])
        return replace(done, text="", finish="tool_calls", tool_calls=(ToolCall("call-1", name, '{"x": '),))


@dataclass(frozen=True)
class Finding:
    """One violation of the contract by a harness."""

    kind: Literal["crash", "hang", "silent"]
    fault: Fault
    reason: str

    @property
    def grave(self) -> bool:
        """True if the finding rejects a rewrite whose parent does not have the same finding."""
        return self.kind != "crash" or self.fault in GRAVE

    def __str__(self) -> str:
        return f"{self.kind} on {self.fault} replies: {self.reason}"


def check_import(runner: RolloutRunner, harness: Harness) -> RungResult:
    """Import the entry in the sandbox.

    Raises:
        SandboxError: the sandbox failed.
    """
    started = time.perf_counter()
    result, sent = runner.import_entry(harness, IMPORT_S)
    if result.status == "infrastructure":
        raise SandboxError(result.reason, where="import of a rewritten harness")
    reason = f"{harness.config.entry} imports in {result.wall_s:.2f} s"
    if result.status != "ok":
        reason = blame(result.stderr, harness, f"{result.status}: {result.reason}")
    elif sent:
        reason = f"{harness.config.entry} writes to the gateway's stream when it is imported"
    details = ("prints when it is imported",) if result.stdout.strip() else ()
    seconds = round(time.perf_counter() - started, 4)
    return RungResult("import", result.status == "ok" and not sent, reason, details, {}, seconds)


def check_contract(
    runner: RolloutRunner, task: Task, problems: Sequence[str], harness: Harness, parent: Harness | None
) -> RungResult:
    """Play `harness` under every fault; if there are findings, play `parent` under the same faults.

    Args:
        problems: ids of training problems; all are played with plain replies, the first under all faults.

    Raises:
        SandboxError: the sandbox failed.
    """
    started = time.perf_counter()
    found = list(_findings(runner, task, problems, harness))
    suspects = {finding.fault for finding in found}
    inherited = set()
    if parent is not None and found:
        inherited = {(one.kind, one.fault) for one in _findings(runner, task, problems, parent, suspects)}
    grave = [one for one in found if one.grave and (one.kind, one.fault) not in inherited]
    if parent is None:
        grave = [one for one in grave if one.kind != "silent"]
    warnings = [
        f"{one} (so does the parent)" if (one.kind, one.fault) in inherited else str(one)
        for one in found
        if one not in grave
    ]
    reason, *others = [str(one) for one in grave] or [f"ends by itself under {len(FAULTS)} kinds of replies"]
    metrics = {"rejecting": len(grave), "warnings": len(warnings)}
    seconds = round(time.perf_counter() - started, 4)
    return RungResult("contract", not grave, reason, (*others, *warnings), metrics, seconds)


def blame(stderr: str, harness: Harness, otherwise: str) -> str:
    """Return `FILE:LINE: last line of the traceback`, with the last line of the harness in the traceback."""
    lines = stderr.strip().splitlines()
    for path, number in reversed(_FRAME.findall(stderr)):
        name = next((name for name in sorted(harness.files, key=len, reverse=True) if path.endswith(f"/{name}")), None)
        if name is not None:
            return f"{name}:{number}: {lines[-1].strip()[:300]}"
    return otherwise


def _findings(
    runner: RolloutRunner, task: Task, problems: Sequence[str], harness: Harness, only: set[Fault] | None = None
) -> Iterator[Finding]:
    longest = LEAST_S
    for fault in FAULTS if only is None else ("plain", *sorted(only - {"plain"})):
        for problem in problems if fault == "plain" else problems[:1]:
            limit = min(harness.config.budget.seconds, task.config.limits.seconds)
            limit = limit if fault == "plain" else min(limit, longest)
            unit = Unit(task.digest, harness.digest, f"contract/{fault}", None, "train", problem, 0, task.sampling)
            rollout = runner.play(unit, harness, _NO_ADAPTER, FaultyPolicy(fault), seconds=limit)
            if fault == "plain":
                longest = max(longest, SLOWER * rollout.seconds)
            finding = _judge(fault, rollout, harness, limit)
            if finding is not None:
                yield finding
                if finding.kind == "hang" and fault == "plain":
                    return  # The harness would hang under the other faults too, at the same cost each.


_NO_ADAPTER: Final[Adapter | None] = None
_KINDS: Mapping[str, Literal["crash", "hang"]] = {"timeout": "hang"}


def _judge(fault: Fault, rollout: Rollout, harness: Harness, limit: float) -> Finding | None:
    failure = rollout.failure
    if fault == "unreachable":
        hung = rollout.seconds >= limit
        return Finding("hang", fault, f"runs for {limit:g} s after the endpoint is gone") if hung else None
    if failure is not None and failure.infrastructure:
        raise SandboxError(failure.reason, where="contract of a rewritten harness")
    if failure is None or failure.kind == "budget" or failure.reason.startswith(_CLEAN):
        asked = bool(rollout.turns) or fault != "plain"
        return None if asked else Finding("silent", fault, "the policy was never asked")
    stderr = rollout.notes[-1] if rollout.notes else ""
    reason = blame(stderr, harness, f"{failure.kind}: {failure.reason}")
    return Finding(_KINDS.get(failure.kind, "crash"), fault, reason)

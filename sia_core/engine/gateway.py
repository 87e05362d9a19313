"""The gateway: one per rollout, the witness between a harness and the policy.

It runs in the trusted worker and talks to the sandboxed harness over one stream, a JSON line
per request and answer. It sets policy, adapter, sampling and seed; checks the budget before
anything is forwarded; and records each turn before the harness sees the answer. The harness
can ask, it cannot choose the model, see a key or write the record.
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_core.candidate import Adapter
from sia_core.engine.jsonl import BadJsonError, parse
from sia_core.errors import SiaError
from sia_core.harness import Harness
from sia_core.hashing import canonical_json, derive_seed
from sia_core.lab import Lab, Limits
from sia_core.policy.protocol import Message, Policy, Request
from sia_core.rollout import Failure, Turn, Unit
from sia_core.task import Problem

LINE_LIMIT = 1 << 20
MAX_OPTIONS = 1024
MAX_NOTES = 64
NOTE_CHARS = 4000
STDOUT_CHARS = 20_000


class RefusedError(Exception):
    """A request that is answered with an error instead of being forwarded."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Gateway:
    """Serves one harness process until it answers or hangs up.

    After `join`, `turns`, `notes`, `answer` and `failure` hold what happened.
    """

    def __init__(
        self, unit: Unit, problem: Problem, harness: Harness, adapter: Adapter | None, policy: Policy, lab: Lab
    ) -> None:
        self._unit = unit
        self._problem = problem
        self._harness = harness
        self._adapter = adapter
        self._policy = policy
        self._lab = lab
        self._left = {"calls": 0, "tokens": 0, "runs": 0} | harness.config.budget.model_dump(exclude={"seconds"})
        self._calls = 0
        self.turns: list[Turn] = []
        self.notes: list[str] = []
        self.answer: Any = None
        self.answered = False
        self.over_budget = False
        self.failure: Failure | None = None
        self._thread: threading.Thread | None = None

    def serve(self, stream: socket.socket) -> None:
        """Serve the other end of `stream` in a thread."""
        self._thread = threading.Thread(target=self._serve, args=(stream,), name="gateway", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the stream is closed and the last request is done."""
        assert self._thread is not None
        self._thread.join()

    def _serve(self, stream: socket.socket) -> None:
        try:
            with stream, stream.makefile("rb") as lines:
                stream.sendall(canonical_json(self._greeting()) + b"\n")
                while not self.answered and (line := lines.readline(LINE_LIMIT + 1)):
                    stream.sendall(canonical_json(self._respond(line)) + b"\n")
                    if self.failure is not None:
                        return
        except (BrokenPipeError, ConnectionResetError):
            return  # The harness is gone; the sandbox says why.

    def _greeting(self) -> dict[str, Any]:
        return {
            "problem": {**self._problem.public, "id": self._problem.id},
            "entry": self._harness.config.entry,
            "knobs": self._harness.knobs,
            "seed": derive_seed(self._unit.key, "harness"),
            "budget": self._left,
            "prompts": {
                name.removeprefix("prompts/"): data.decode(errors="replace")
                for name, data in self._harness.files.items()
                if name.startswith("prompts/")
            },
        }

    def _respond(self, line: bytes) -> dict[str, Any]:
        try:
            request = parse(line, limit=LINE_LIMIT)
            result = self._dispatch(request)
        except RefusedError as refused:
            self.over_budget |= refused.kind == "budget"
            return {"error": [refused.kind, str(refused)], "budget": self._left}
        except (BadJsonError, KeyError, TypeError, AttributeError) as error:
            return {"error": ["request", f"{type(error).__name__}: {error}"], "budget": self._left}
        return {"result": result, "budget": self._left}

    def _dispatch(self, request: Mapping[str, Any]) -> Any:
        methods: dict[str, Callable[..., Any]] = {
            "chat": self._chat,
            "choose": self._choose,
            "run": self._run,
            "note": self._note,
            "answer": self._answer,
        }
        method = methods.get(request["method"])
        if method is None:
            raise RefusedError("request", f"unknown method; known: {', '.join(methods)}")
        return method(**request["params"])

    def _chat(self, messages: Any) -> str:
        return self._ask("chat", _check_messages(messages), None)

    def _choose(self, messages: Any, options: Any) -> str:
        return self._ask("choose", _check_messages(messages), _check_options(options))

    def _ask(self, kind: Any, messages: Sequence[Message], options: Sequence[str] | None) -> str:
        self._spend("calls")
        if self._left["tokens"] <= 0:
            raise RefusedError("budget", "no tokens left for this rollout")
        self._calls += 1
        started = time.perf_counter()
        try:
            completion = self._policy.sample(
                Request(
                    tuple(messages),
                    self._unit.sampling,
                    derive_seed(self._unit.key, "turn", self._calls),
                    self._adapter,
                    None if options is None else tuple(options),
                )
            )
        except Exception as error:
            # Whatever the harness does with it, a policy that cannot answer is nobody's zero.
            self.failure = Failure("endpoint", f"{type(error).__name__}: {error}"[:500])
            raise RefusedError("endpoint", "the policy cannot be reached") from error
        turn = Turn(
            kind=kind,
            prompt=completion.prompt,
            output=completion.text,
            adapter=self._unit.adapter,
            temperature=self._unit.sampling.temperature,
            prompt_ids=completion.prompt_ids,
            output_ids=completion.output_ids,
            logprobs=completion.logprobs,
            allowed=completion.allowed,
            finish=completion.finish,
            latency_s=round(time.perf_counter() - started, 6),
        )
        self.turns.append(turn)
        self._left["tokens"] -= turn.tokens
        return completion.text

    def _run(self, code: Any, seconds: Any = 30.0) -> dict[str, Any]:
        if not isinstance(code, str) or not isinstance(seconds, (int, float)):
            raise RefusedError("request", "run takes code (text) and seconds (number)")
        self._spend("runs")
        wall = min(max(float(seconds), 0.1), self._harness.config.budget.seconds)
        try:
            result = self._lab.run({"main.py": code.encode(), **self._problem.files}, Limits(wall_s=wall, cpu_s=wall))
        except SiaError as error:
            self.failure = Failure("sandbox", str(error)[:500])
            raise RefusedError("endpoint", "no sandbox can be had") from error
        if result.status == "infrastructure":
            self.failure = Failure("sandbox", result.reason)
            raise RefusedError("endpoint", "the sandbox failed")
        fields = asdict(result)
        return {
            "status": fields["status"],
            "reason": fields["reason"],
            "stdout": fields["stdout"][:STDOUT_CHARS],
            "stderr": fields["stderr"][-STDOUT_CHARS:],
        }

    def _note(self, text: Any) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(str(text)[:NOTE_CHARS])

    def _answer(self, answer: Any) -> None:
        self.answer = answer
        self.answered = True

    def _spend(self, what: str) -> None:
        if self._left[what] <= 0:
            raise RefusedError("budget", f"no {what} left for this rollout")
        self._left[what] -= 1


def _check_messages(messages: Any) -> Sequence[Message]:
    good = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(message, dict)
            and set(message) == {"role", "content"}
            and message["role"] in ("system", "user", "assistant")
            and isinstance(message["content"], str)
            for message in messages
        )
    )
    if not good:
        raise RefusedError("request", "messages: a list of {role: system|user|assistant, content: text}")
    return list(messages)


def _check_options(options: Any) -> Sequence[str]:
    good = (
        isinstance(options, list)
        and 0 < len(options) <= MAX_OPTIONS
        and all(isinstance(option, str) and option for option in options)
    )
    if not good or len(set(options)) < len(options):
        raise RefusedError("request", f"options: 1 to {MAX_OPTIONS} different, non-empty texts")
    return list(options)

"""The gateway: one per rollout, between a harness and the policy.

The gateway runs in the trusted worker and talks to the sandboxed harness over one stream, a JSON line
per request and answer: {"id", "path", "body", "retry"} and {"id", "status", "body", "budget"},
with the paths, bodies and statuses of HTTP, so that clients of OpenAI and Anthropic work unchanged.
The gateway sets policy, adapter, sampling and seed, checks the budget before anything is forwarded,
and records each turn before the harness sees the answer. The harness can send requests, but cannot
choose the model, see a key or write the record.

The seed of a turn is derived from the request and its number of earlier repetitions, so that parallel
requests get the same answers in any order.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, RecordError, SiaError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import canonical_json, derive_seed, digest_json
from sia_core.domain.lab import Lab, Limits
from sia_core.domain.rollout import Failure, ProgramRun, Trace, Turn, Unit
from sia_core.domain.task import Problem
from sia_core.engine.budget import RefusedError, RolloutBudget, needs
from sia_core.engine.jsonl import BadJsonError
from sia_core.engine.lines import LINE_LIMIT, Answer, Line, read_line, refusal, reply
from sia_core.engine.trace import read_trace
from sia_core.engine.wire_formats import (
    MODEL,
    Ask,
    chat_events,
    message_events,
    read_chat,
    read_choose,
    read_messages,
    refuse_stop,
    write_chat,
    write_messages,
)
from sia_core.policy.protocol import Completion, OverBudgetError, Policy, RejectedRequestError, Request

MAX_NOTES = 64
NOTE_CHARS = 4000
MAX_WAITING = 64
"""Maximum lines read but not answered, to bound memory."""
COUNTED = ("/v1/chat/completions", "/v1/messages", "/sia/choose", "/sia/run")
"""Paths that the budget counts, and whose retried requests get the same answer again."""
_MODEL = {"id": MODEL, "object": "model", "owned_by": "sia"}
_MODEL_PATH = "/v1/models/"
STDOUT_CHARS = 20_000
KEPT_CODE, KEPT_OUTPUT = 20_000, 2000
"""Characters of a program and of each of its outputs that the record keeps."""


class Gateway:
    """Serves one harness process until it answers or closes the stream.

    After `join`, `turns`, `programs`, `notes`, `trace`, `answer`, `failure` and `fatal` hold the results.
    """

    def __init__(
        self,
        unit: Unit,
        problem: Problem,
        harness: Harness,
        adapter: Adapter | None,
        policy: Policy,
        lab: Lab,
        *,
        shared: str = "",
    ) -> None:
        self._unit = unit
        self._shared = shared
        self._problem = problem
        self._harness = harness
        self._adapter = adapter
        self._policy = policy
        self._lab = lab
        budget = harness.config.budget
        self.budget = RolloutBudget(budget.model_dump(include={"calls", "tokens", "runs"}))
        self._pool = ThreadPoolExecutor(budget.parallel, thread_name_prefix="gateway")
        self._in_flight = threading.Semaphore(budget.parallel)
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._gone = False
        self._writing = threading.Lock()
        self._running = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._served: dict[str, Future[Answer]] = {}
        self._slots: list[Turn | None] = []
        self._programs: list[ProgramRun | None] = []
        self.notes: list[str] = []
        self.trace: Trace | None = None
        self.answer: Any = None
        self.answered = False
        self.failure: Failure | None = None
        self.fatal: SiaError | None = None
        """Error that must stop the run: the policy cannot be used, or its replies cannot be kept."""
        self._thread: threading.Thread | None = None

    @property
    def turns(self) -> list[Turn]:
        """Turns that the policy answered, in the order of requests."""
        return [turn for turn in self._slots if turn is not None]

    @property
    def programs(self) -> list[ProgramRun]:
        """Programs that were run, in the order of requests."""
        return [run for run in self._programs if run is not None]

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
            with stream, stream.makefile("rb") as lines, self._pool:
                try:
                    self._send(stream, self._opened())
                    while not self._over and (line := lines.readline(LINE_LIMIT + 1)):
                        self._accept(stream, line)
                finally:
                    self._gone = True  # Requests in flight are still recorded, waiting ones are dropped.
        except OSError:
            return  # The harness is gone; the sandbox reports why.

    @property
    def _over(self) -> bool:
        return self.answered or self.failure is not None or self.fatal is not None

    def _opened(self) -> dict[str, Any]:
        """Return the greeting; a problem that cannot be made or sent is no failure of the harness."""
        try:
            greeting = self._greeting()
            canonical_json(greeting)
        except Exception as error:  # noqa: BLE001  (a task makes some problems on demand, and may raise anything)
            said = error.what if isinstance(error, SiaError) else f"{type(error).__name__}: {error}"
            self.failure = Failure("verifier", f"the problem cannot be sent: {said}"[:500])
            return {}
        return greeting

    def _greeting(self) -> dict[str, Any]:
        return {
            "problem": {**self._problem.public, **self._earlier(), "id": self._problem.id},
            "entry": self._harness.config.entry,
            "knobs": self._harness.knobs,
            "seed": derive_seed(self._unit.randomness, "harness"),
            "budget": self.budget.left,
            "prompts": {
                name.removeprefix("prompts/"): data.decode(errors="replace")
                for name, data in self._harness.files.items()
                if name.startswith("prompts/")
            },
            **({"shared": self._shared} if self._shared else {}),
            **({"trace": True} if self._unit.twin is not None else {}),
        }

    def _earlier(self) -> dict[str, Any]:
        """Return the answer from which the rollout continues, with its score; empty if there is none."""
        if self._unit.state is None:
            return {}
        state = json.loads(self._unit.state)
        return {"earlier": {"answer": state["answer"], "score": state["score"]}}

    def _accept(self, stream: socket.socket, data: bytes) -> None:
        """Check a line, reserve its place in the record, and let the pool serve it."""
        try:
            line = read_line(data)
        except (BadJsonError, RefusedError) as error:
            self._send(stream, reply(None, refusal("request", str(error)), self.budget.left))
            return
        if line.path == "/sia/answer":
            # Handled in the reading thread, so that no later line counts.
            self.answer, self.answered = line.body, True
            self._send(stream, reply(line.id, (200, None), self.budget.left))
            return
        self._waiting.acquire()
        number, future = line.id, self._future(line)
        future.add_done_callback(lambda done: self._finish(stream, number, done))

    def _future(self, line: Line) -> Future[Answer]:
        """Return the future of the answer; a retried request gets its existing one."""
        counted = line.path in COUNTED
        known = self._served.get(line.key) if line.retry and counted else None
        if known is not None:
            return known
        taken = self.budget.taken
        future = self._pool.submit(self._respond, self._prepare(line))
        if counted and self.budget.taken > taken:  # The budget bounds the kept answers.
            self._served[line.key] = future
        return future

    def _finish(self, stream: socket.socket, number: int | None, done: Future[Answer]) -> None:
        try:
            self._send(stream, reply(number, done.result(), self.budget.left))
            if self._over:
                stream.shutdown(socket.SHUT_RD)  # Wakes the reading thread.
        except OSError:
            return
        finally:
            self._waiting.release()

    def _prepare(self, line: Line) -> Callable[[], Answer]:
        """Do all steps that depend on the order of requests; return the function that serves this line."""
        routes: Mapping[str, Callable[[Any], Callable[[], Answer]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/messages": self._messages,
            "/v1/models": lambda _: lambda: (200, {"object": "list", "data": [_MODEL]}),
            "/sia/choose": self._choose,
            "/sia/run": self._run,
            "/sia/note": self._note,
            **({"/sia/trace": self._trace} if self._unit.twin is not None else {}),
        }
        try:
            if line.path.startswith(_MODEL_PATH):
                return self._model(line.path)
            if line.path not in routes:
                known = ", ".join([*routes, "/sia/answer"])
                raise RefusedError("request", f"no path {line.path[:80]!r}; known: {known}")
            return routes[line.path](line.body)
        except RefusedError as error:
            refused = refusal(error.kind, str(error))
            return lambda: refused

    def _respond(self, serve: Callable[[], Answer]) -> Answer:
        try:
            return serve()
        except RefusedError as error:
            return refusal(error.kind, str(error))
        except Exception as error:  # noqa: BLE001  (a defect here must not look like the harness's)
            self.failure = Failure("worker", f"{type(error).__name__}: {error}"[:500])
            return refusal("endpoint", "the gateway failed")

    def _chat(self, body: Any) -> Callable[[], Answer]:
        ask = refuse_stop(read_chat(body))
        sample = self._plan(ask, "chat")

        def serve() -> Answer:
            answer = write_chat(digest_json(body), sample())
            return 200, chat_events(answer, usage=ask.usage) if ask.stream else answer

        return serve

    def _messages(self, body: Any) -> Callable[[], Answer]:
        ask = refuse_stop(read_messages(body))
        sample = self._plan(ask, "chat")

        def serve() -> Answer:
            answer = write_messages(digest_json(body), sample()[0])
            return 200, message_events(answer) if ask.stream else answer

        return serve

    def _model(self, path: str) -> Callable[[], Answer]:
        if path.removeprefix(_MODEL_PATH) == MODEL:
            return lambda: (200, _MODEL)
        return lambda: (404, {"error": {"type": "request", "message": f"the model is {MODEL}", "code": "not_found"}})

    def _choose(self, body: Any) -> Callable[[], Answer]:
        sample = self._plan(read_choose(body), "choose")
        return lambda: (200, {"choice": sample()[0].text})

    def _plan(self, ask: Ask, kind: Any) -> Callable[[], list[Completion]]:
        """Take the calls from the budget, and fix seeds and places in the record."""
        self.budget.take("calls", ask.n)
        sampling = self._unit.sampling
        if ask.max_tokens is not None:
            sampling = replace(sampling, max_tokens=min(ask.max_tokens, sampling.max_tokens))
        same = digest_json([ask.messages, ask.options, ask.tools, sampling.max_tokens])
        planned: list[tuple[int, Request]] = []
        for _ in range(ask.n):
            seed = derive_seed(self._unit.randomness, "turn", same, self._asked[same])
            self._asked[same] += 1
            planned.append(
                (len(self._slots), Request(ask.messages, sampling, seed, self._adapter, ask.options, ask.tools))
            )
            self._slots.append(None)
        return lambda: self._sample_all(kind, planned)

    def _sample_all(self, kind: Any, planned: Sequence[tuple[int, Request]]) -> list[Completion]:
        if len(planned) == 1:
            return [self._sample(kind, *planned[0])]
        with ThreadPoolExecutor(min(len(planned), self._harness.config.budget.parallel)) as pool:
            return list(pool.map(lambda one: self._sample(kind, *one), planned))

    def _sample(self, kind: Any, slot: int, request: Request) -> Completion:
        with self._in_flight:
            if self._gone:
                raise RefusedError("request", "the stream is closed")
            return self._forward(kind, slot, request)

    def _forward(self, kind: Any, slot: int, request: Request) -> Completion:
        granted = self.budget.reserve(*needs(request, exact=self._policy.trainable))
        started = time.perf_counter()
        used = 0
        try:
            request = replace(request, ceiling=granted)
            completion = self._policy.sample(request)
            turn = self._turn(kind, request, completion, time.perf_counter() - started)
            used = turn.tokens
            self._slots[slot] = turn
        except OverBudgetError as error:
            self.budget.exceeded = True
            raise RefusedError("budget", str(error)) from error
        except RejectedRequestError as error:
            raise RefusedError("request", str(error)) from error
        except (PolicyError, RecordError) as error:
            self.fatal = error
            raise RefusedError("endpoint", "the policy cannot be used") from error
        except Exception as error:
            # A policy that cannot answer must never score 0, however the harness handles the error.
            self.failure = Failure("endpoint", f"{type(error).__name__}: {error}"[:500])
            raise RefusedError("endpoint", "the policy cannot be reached") from error
        finally:
            self.budget.settle(granted, used)
        return completion

    def _turn(self, kind: Any, request: Request, completion: Completion, seconds: float) -> Turn:
        return Turn(
            kind=kind,
            prompt=completion.prompt,
            output=completion.text,
            adapter=self._unit.adapter,
            temperature=request.sampling.temperature,
            prompt_ids=completion.prompt_ids,
            output_ids=completion.output_ids,
            logprobs=completion.logprobs,
            allowed=completion.allowed,
            options=request.options,
            finish=completion.finish,
            latency_s=round(seconds, 6),
            tool_calls=completion.tool_calls,
            prompt_tokens=completion.prompt_tokens,
            output_tokens=completion.output_tokens,
        )

    def _run(self, body: Any) -> Callable[[], Answer]:
        body = body if isinstance(body, dict) else {}
        code, seconds = body.get("code"), body.get("seconds", 30.0)
        if not isinstance(code, str) or isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise RefusedError("request", "run takes code (text) and seconds (number)")
        self.budget.take("runs")
        wall = min(max(float(seconds), 0.1), self._harness.config.budget.seconds)
        slot = len(self._programs)
        self._programs.append(None)
        return lambda: self._launch(slot, code, wall)

    def _launch(self, slot: int, code: str, wall: float) -> Answer:
        files = {"main.py": code.encode(), **self._problem.files}
        try:
            with self._running:  # The lab runs one program at a time.
                if self._gone:
                    raise RefusedError("request", "the stream is closed")
                result = self._lab.run(files, Limits(wall_s=wall, cpu_s=wall))
        except SiaError as error:
            self.failure = Failure("sandbox", str(error)[:500])
            raise RefusedError("endpoint", "no sandbox is available") from error
        if result.status == "infrastructure":
            self.failure = Failure("sandbox", result.reason)
            raise RefusedError("endpoint", "the sandbox failed")
        self._programs[slot] = ProgramRun(
            code[:KEPT_CODE],
            result.status,
            result.reason[:KEPT_OUTPUT],
            result.stdout[:KEPT_OUTPUT],
            result.stderr[-KEPT_OUTPUT:],
        )
        return 200, {
            "status": result.status,
            "reason": result.reason,
            "stdout": result.stdout[:STDOUT_CHARS],
            "stderr": result.stderr[-STDOUT_CHARS:],
        }

    def _note(self, body: Any) -> Callable[[], Answer]:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(str(body)[:NOTE_CHARS])
        return lambda: (200, None)

    def _trace(self, body: Any) -> Callable[[], Answer]:
        self.trace = read_trace(body, self._harness)
        return lambda: (200, None)

    def _send(self, stream: socket.socket, message: Mapping[str, Any]) -> None:
        data = canonical_json(message) + b"\n"
        with self._writing:
            stream.sendall(data)

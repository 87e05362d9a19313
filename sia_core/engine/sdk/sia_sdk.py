"""Interface of a harness: the `ctx` given to `async def solve(problem, ctx)`.

This file alone is visible inside the sandbox, next to the harness. It needs nothing but the
standard library and holds nothing worth stealing: every call is one JSON line over an
inherited stream to the gateway, which owns the model, the budget and the record.
"""

import asyncio
import contextlib
import importlib
import inspect
import itertools
import json
import os
import random
import socket
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

LINE_LIMIT = 1 << 20
TRACE_LINES = 50_000
BASE_URL = "http://gateway/v1"
"""For client libraries, with `ctx.http_client()`: the host is never looked up."""

Messages = str | list[dict[str, Any]]
"""A prompt, or messages in the shape of OpenAI's chat completions."""


class GatewayError(Exception):
    """The gateway refused a request.

    `kind`: `budget` (a ceiling of the rollout is reached), `request` (malformed, or more than the
    policy can take), `endpoint` (the rollout is lost and will be run again; catching this is in vain).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Reply(str):
    """A sampled text, and what came with it."""

    __slots__ = ("finish", "message", "tool_calls")
    message: dict[str, Any]
    """To append to the messages of the next call."""
    tool_calls: list[dict[str, Any]]
    """[{"id", "name", "arguments": JSON text}]: answer each by a message of role `tool`."""
    finish: str
    """`stop`, `length` (cut at the token limit) or `tool_calls`."""

    def __new__(cls, choice: dict[str, Any]) -> "Reply":
        """From one choice of a chat completion."""
        message = choice["message"]
        self = super().__new__(cls, message["content"] or "")
        self.message = message
        self.tool_calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())]
        self.finish = choice["finish_reason"]
        return self


class _Lines:
    """JSON lines over the inherited socket; leaner than asyncio's streams, which each rollout would set up anew."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._socket = stream
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._data = bytearray()

    async def read(self) -> bytes:
        """The next line; empty at the end."""
        start = 0
        while (end := self._data.find(b"\n", start)) < 0:
            start = len(self._data)
            try:
                chunk = await self._loop.sock_recv(self._socket, 1 << 16)
            except ConnectionError:
                return b""
            if not chunk:
                return b""
            self._data += chunk
        line = bytes(self._data[: end + 1])
        del self._data[: end + 1]
        return line

    async def write(self, line: bytes) -> None:
        """Raises GatewayError when nobody reads any more."""
        try:
            async with self._sending:
                await self._loop.sock_sendall(self._socket, line)
        except ConnectionError as error:
            raise _gone() from error


def _gone() -> GatewayError:
    return GatewayError("endpoint", "the gateway is gone")


class Context:
    """The only door of a harness. Calls may be awaited together; the gateway bounds how many are served at a time."""

    def __init__(self, lines: _Lines, start: dict[str, Any]) -> None:
        self._lines = lines
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._receiver = asyncio.ensure_future(self._receive())
        self.knobs: dict[str, Any] = start["knobs"]
        """Declared settings of harness.toml and their current values."""
        self.rng = random.Random(start["seed"])
        """The harness's own randomness; differs between rollouts, repeats on a re-run."""
        self.budget: dict[str, Any] = start["budget"]
        """Calls, tokens and runs that are left; refreshed by every answer."""
        self.shared = Path(start.get("shared") or "/nonexistent")
        """Directory of what the task shares with all rollouts, to be read only."""
        self._prompts: dict[str, str] = start["prompts"]

    async def chat(
        self, messages: Messages, *, tools: list[dict[str, Any]] | None = None, max_tokens: int | None = None
    ) -> Reply:
        """Sample one reply. `tools` in OpenAI's shape; `max_tokens` can only lower the task's limit."""
        return (await self.sample(messages, n=1, tools=tools, max_tokens=max_tokens))[0]

    async def sample(
        self,
        messages: Messages,
        *,
        n: int,
        tools: list[dict[str, Any]] | None = None,
        max_tokens: int | None = None,
    ) -> list[Reply]:
        """Sample `n` replies, independent of one another; each is a call of the budget."""
        body: dict[str, Any] = {"messages": _messages(messages), "n": n}
        if tools:
            body["tools"] = tools
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        answer = await self._call("/v1/chat/completions", body)
        return [Reply(choice) for choice in answer["choices"]]

    async def choose(self, messages: Messages, options: list[str]) -> str:
        """Sample one of `options`."""
        answer = await self._call("/sia/choose", {"messages": _messages(messages), "options": list(options)})
        return str(answer["choice"])

    async def run(self, code: str, *, seconds: float = 30.0) -> dict[str, Any]:
        """Run a program in a sibling sandbox that holds the problem's public files.

        Returns `status` (`ok`, `error`, `timeout`, `memory`, `disk`, `output`), `reason`,
        `stdout`, `stderr`.
        """
        result: dict[str, Any] = await self._call("/sia/run", {"code": code, "seconds": seconds})
        return result

    async def note(self, text: str) -> None:
        """Leave a remark in the trajectory."""
        await self._call("/sia/note", str(text))

    def prompt(self, name: str, **values: object) -> str:
        """Text of `prompts/NAME` in the harness, with {placeholders} filled in."""
        return self._prompts[name].format(**values)

    def http_client(self) -> Any:
        """An `httpx2.AsyncClient` (or httpx, where that is what there is) whose requests go to the gateway.

        `AsyncOpenAI(base_url=sia_sdk.BASE_URL, api_key="-", http_client=ctx.http_client())`, and likewise
        AsyncAnthropic (base_url without /v1): model, sampling and seed are the gateway's, whatever the client asks.
        """
        try:
            httpx = importlib.import_module("httpx2")  # What the clients of OpenAI and Anthropic are made with.
        except ImportError:
            httpx = importlib.import_module("httpx")

        context = self

        class Transport(httpx.AsyncBaseTransport):  # type: ignore[name-defined, misc]
            async def handle_async_request(self, request: Any) -> Any:
                data = await request.aread()
                retry = request.headers.get("x-stainless-retry-count", "0") != "0"
                answer = await context._exchange(request.url.path, json.loads(data) if data else None, retry)
                body = answer["body"]
                if isinstance(body, str):
                    kind = {"content-type": "text/event-stream"}
                    return httpx.Response(answer["status"], headers=kind, content=body.encode())
                return httpx.Response(answer["status"], json=body)

        return httpx.AsyncClient(transport=Transport())

    async def _call(self, path: str, body: Any) -> Any:
        answer = await self._exchange(path, body, retry=False)
        if answer["status"] != 200:
            error = answer["body"]["error"]
            raise GatewayError(error["type"], error["message"])
        return answer["body"]

    async def _exchange(self, path: str, body: Any, retry: bool) -> dict[str, Any]:
        number = next(self._ids)
        request = {"id": number, "path": path, "body": body, "retry": retry}
        try:
            line = json.dumps(request, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise GatewayError("request", f"not JSON: {error}") from error
        if len(line) > LINE_LIMIT:
            raise GatewayError("request", f"{len(line)} bytes, at most {LINE_LIMIT} in one request")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        await self._lines.write(line)
        if self._receiver.done():
            self._hang_up()
        answer = await future
        self.budget = answer["budget"]
        return answer

    async def _receive(self) -> None:
        while line := await self._lines.read():
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"], None)
            if future is not None and not future.done():
                future.set_result(answer)
        self._hang_up()

    def _hang_up(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_gone())


def _messages(messages: Messages) -> list[dict[str, Any]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _reading_all(method: Any) -> Any:
    def read(self: "_Knobs") -> Any:
        self.read.update(dict.keys(self))
        return method(self)

    return read


class _Knobs(dict[str, Any]):
    """Knobs that remember which of them were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    __iter__, keys, values, items, copy = map(
        _reading_all, (dict.__iter__, dict.keys, dict.values, dict.items, dict.copy)
    )


class _Tracer:
    """Which lines of the harness's own functions were run. Module-level code, run by any import, does not count."""

    def __init__(self) -> None:
        self._folder = f"{Path.cwd()}/"
        self._watched: dict[int, tuple[CodeType, set[int], set[int]]] = {}
        """By identity (equal functions in two files are equal code): lines there are, lines seen."""

    def start(self) -> None:
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def stop(self) -> None:
        threading.settrace(None)
        sys.settrace(None)

    def report(self) -> dict[str, list[int]]:
        """File -> lines, no more of them than fit into one request."""
        found: dict[str, set[int]] = {}
        for code, _, seen in list(self._watched.values()):
            found.setdefault(code.co_filename.removeprefix(self._folder), set()).update(seen)
        room = itertools.count()
        return {name: [line for line in sorted(lines) if next(room) < TRACE_LINES] for name, lines in found.items()}

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not code.co_flags & inspect.CO_OPTIMIZED or not code.co_filename.startswith(self._folder):
            return None
        if id(code) not in self._watched:
            lines = {line for _, _, line in code.co_lines() if line}
            self._watched[id(code)] = (code, lines - {code.co_firstlineno} or lines, set())
        _, lines, seen = self._watched[id(code)]
        if seen >= lines:
            return None  # Nothing new can come of it, and tracing is slow.

        def line(frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "line":
                seen.add(frame.f_lineno)
            return line

        return line


async def _solve() -> None:
    lines = _Lines(socket.socket(fileno=int(os.environ["SIA_STREAM"])))
    start = json.loads(await lines.read())
    context = Context(lines, start)
    answer = await (_traced if start.get("trace") else _answer)(start, context)
    await context._call("/sia/answer", answer)


async def _answer(start: dict[str, Any], context: Context) -> Any:
    return await _load(start["entry"]).solve(start["problem"], context)


async def _traced(start: dict[str, Any], context: Context) -> Any:
    """Do as `_answer` does and report what ran, however the harness ends, to tell a rewrite from a no-op."""
    tracer = _Tracer()
    context.knobs = knobs = _Knobs(context.knobs)
    tracer.start()
    try:
        return await _answer(start, context)
    finally:
        tracer.stop()
        with contextlib.suppress(GatewayError):
            await context._call("/sia/trace", {"lines": tracer.report(), "knobs": sorted(knobs.read)})


def _load(entry: str) -> Any:
    return importlib.import_module(entry.removesuffix(".py").replace("/", "."))


def main() -> None:
    """Serve one rollout: called by the entry file that the engine writes."""
    sys.path.insert(0, str(Path.cwd()))
    asyncio.run(_solve())


def check(entry: str) -> None:
    """Import the entry and nothing else: called by the file that the import check writes."""
    sys.path.insert(0, str(Path.cwd()))
    solve = getattr(_load(entry), "solve", None)
    if not inspect.iscoroutinefunction(solve):
        sys.exit(f"{entry} has no async def solve(problem, ctx)")

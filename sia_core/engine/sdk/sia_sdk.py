"""What a harness can do: the `ctx` given to `async def solve(problem, ctx)`.

This file alone is visible inside the sandbox, next to the harness. It needs nothing but the
standard library and holds nothing worth stealing: every call is one JSON line over an
inherited stream to the gateway, which owns the model, the budget and the record.
"""

import asyncio
import importlib
import itertools
import json
import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

LINE_LIMIT = 1 << 20
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


class Context:
    """The only door of a harness. Calls may be awaited together; the gateway bounds how many are served at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: dict[str, Any]) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._receiver = asyncio.ensure_future(self._receive())
        self.knobs: dict[str, Any] = start["knobs"]
        """Declared settings of harness.toml and their current values."""
        self.rng = random.Random(start["seed"])
        """The harness's own randomness; differs between rollouts, repeats on a re-run."""
        self.budget: dict[str, Any] = start["budget"]
        """What is left: calls, tokens, runs; refreshed by every answer."""
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
        self._writer.write(line)
        await self._writer.drain()
        if self._receiver.done():
            self._hang_up()
        answer = await future
        self.budget = answer["budget"]
        return answer

    async def _receive(self) -> None:
        while line := await self._reader.readline():
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"], None)
            if future is not None and not future.done():
                future.set_result(answer)
        self._hang_up()

    def _hang_up(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(GatewayError("endpoint", "the gateway is gone"))


def _messages(messages: Messages) -> list[dict[str, Any]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


async def _solve() -> None:
    stream = socket.socket(fileno=int(os.environ["SIA_STREAM"]))
    reader, writer = await asyncio.open_connection(sock=stream, limit=16 * LINE_LIMIT)
    start = json.loads(await reader.readline())
    context = Context(reader, writer, start)
    module = importlib.import_module(start["entry"].removesuffix(".py").replace("/", "."))
    answer = await module.solve(start["problem"], context)
    await context._call("/sia/answer", answer)


def main() -> None:
    """Serve one rollout: called by the entry file that the engine writes."""
    sys.path.insert(0, str(Path.cwd()))
    asyncio.run(_solve())

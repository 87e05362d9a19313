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


class GatewayError(Exception):
    """The gateway refused a request.

    `kind`: `budget` (a ceiling of the rollout is reached), `request` (malformed), `endpoint`
    (the policy cannot be reached; the rollout will be run again, catching this is in vain).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Context:
    """The only door of a harness."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: dict[str, Any]) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._turn = asyncio.Lock()
        self.knobs: dict[str, Any] = start["knobs"]
        """Declared settings of harness.toml and their current values."""
        self.rng = random.Random(start["seed"])
        """The harness's own randomness; differs between rollouts, repeats on a re-run."""
        self.budget: dict[str, Any] = start["budget"]
        """What is left: calls, tokens, runs; refreshed by every answer."""
        self._prompts: dict[str, str] = start["prompts"]

    async def chat(self, messages: str | list[dict[str, str]]) -> str:
        """Sample a reply to a prompt, or to messages with `role` and `content`."""
        return str(await self._call("chat", messages=_messages(messages)))

    async def choose(self, messages: str | list[dict[str, str]], options: list[str]) -> str:
        """Sample one of `options`."""
        return str(await self._call("choose", messages=_messages(messages), options=list(options)))

    async def run(self, code: str, *, seconds: float = 30.0) -> dict[str, Any]:
        """Run a program in a sibling sandbox that holds the problem's public files.

        Returns `status` (`ok`, `error`, `timeout`, `memory`, `disk`, `output`), `reason`,
        `stdout`, `stderr`.
        """
        result: dict[str, Any] = await self._call("run", code=code, seconds=seconds)
        return result

    async def note(self, text: str) -> None:
        """Leave a remark in the trajectory."""
        await self._call("note", text=str(text))

    def prompt(self, name: str, **values: object) -> str:
        """Text of `prompts/NAME` in the harness, with {placeholders} filled in."""
        return self._prompts[name].format(**values)

    async def _call(self, method: str, **params: Any) -> Any:
        # One request at a time keeps the order of turns, and so every seed, the same on a re-run.
        async with self._turn:
            line = json.dumps({"id": next(self._ids), "method": method, "params": params})
            self._writer.write(line.encode() + b"\n")
            await self._writer.drain()
            answer = json.loads(await self._reader.readline() or b'{"error": ["endpoint", "the gateway is gone"]}')
        self.budget = answer.get("budget", {})
        if "error" in answer:
            raise GatewayError(*answer["error"])
        return answer["result"]


def _messages(messages: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


async def _solve() -> None:
    stream = socket.socket(fileno=int(os.environ["SIA_STREAM"]))
    reader, writer = await asyncio.open_connection(sock=stream, limit=LINE_LIMIT)
    start = json.loads(await reader.readline())
    context = Context(reader, writer, start)
    module = importlib.import_module(start["entry"].removesuffix(".py").replace("/", "."))
    answer = await module.solve(start["problem"], context)
    await context._call("answer", answer=answer)


def main() -> None:
    """Serve one rollout: called by the entry file that the engine writes."""
    sys.path.insert(0, str(Path.cwd()))
    asyncio.run(_solve())

"""Streams of server-sent events in both formats, which drip, stop or break off where a test says."""

import json
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from tests.wire.server import Answer, Handler

Step = bytes | float | threading.Event
"""Bytes to send, seconds to wait, or an event to wait for."""
EVENTS: Final = "text/event-stream"
USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE: Final = b"data: [DONE]\n\n"


def stream(steps: Iterable[Step], *, cut: bool = False, kind: str = EVENTS) -> Answer:
    """An answer sent step by step; `cut`: the connection ends before the answer does."""
    made = list(steps)

    def answer(handler: Handler, _: dict[str, Any]) -> None:
        with suppress(OSError):  # The client may have left.
            handler.send_response(200)
            handler.send_header("content-type", kind)
            handler.send_header("transfer-encoding", "chunked")
            handler.end_headers()
            for step in made:
                _take(handler, step)
            if not cut:
                handler.wfile.write(b"0\r\n\r\n")
                return
        handler.close_connection = True

    return answer


def _take(handler: Handler, step: Step) -> None:
    if isinstance(step, threading.Event):
        handler.wfile.flush()
        step.wait(20)
    elif isinstance(step, float):
        time.sleep(step)
    else:
        handler.wfile.write(f"{len(step):x}\r\n".encode() + step + b"\r\n")
        handler.wfile.flush()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, usage: Any = None) -> bytes:
    """A chunk of a chat completion; without a delta, the last chunk, which counts the tokens."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
    value = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return _event({**value, "usage": usage})


def call(index: int | None, *, id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:  # noqa: A002
    """A delta that holds a part of a call."""
    part: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        part["index"] = index
    if id is not None:
        part |= {"id": id, "type": "function"}
    if name is not None:
        part["function"]["name"] = name
    return {"tool_calls": [part]}


def chat_parts(texts: Sequence[str], usage: Any = USAGE) -> list[bytes]:
    """A whole streamed chat completion."""
    head = [chunk({"role": "assistant", "content": ""})]
    counted = [] if usage is None else [chunk(usage=usage)]
    return [*head, *(chunk({"content": text}) for text in texts), chunk({}, "stop"), *counted, DONE]


def message_parts(texts: Sequence[str]) -> list[bytes]:
    """A whole streamed message of Anthropic."""
    head: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    usage = {"input_tokens": 7, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**head, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 3},
        },
        {"type": "message_stop"},
    ]
    return [_event(event, event["type"]) for event in events]


def parts(kind: str, texts: Sequence[str]) -> list[bytes]:
    """A whole streamed reply on the wire of that kind."""
    return chat_parts(texts) if kind == "openai" else message_parts(texts)


def error_event(text: str) -> bytes:
    """An error in place of the next event."""
    return _event({"type": "error", "error": {"type": "overloaded_error", "message": text}}, "error")


def dripping(made: Sequence[bytes], seconds: float) -> list[Step]:
    """The parts, with a wait before each."""
    return [step for part in made for step in (seconds, part)]


def _event(value: Any, name: str | None = None) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(value)}\n\n".encode()

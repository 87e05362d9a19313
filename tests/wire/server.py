"""A local HTTP server that speaks the wire formats of OpenAI and Anthropic, and fails on demand."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sia_core.policy.contact import MARK

Answer = Callable[["Handler", dict[str, Any]], None]


@dataclass
class Wire:
    """The received requests, and the answers to the next requests."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """(path, headers, body) of each POST."""
    faults: deque[Answer] = field(default_factory=deque)
    """Answers to the next requests; then `answer` is used."""
    answer: Answer | None = None
    contacts: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of requests of a first contact, which are answered as a sound server would."""
    plays_contacts: bool = False
    """True if `faults` and `answer` answer the requests of a contact too."""
    down: bool = False
    """True if every request is answered with 503."""
    most: int = 0
    """Requests in flight together, at most."""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def leave(self) -> None:
        with self._lock:
            self._now -= 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wire: Wire

    def handle(self) -> None:
        with suppress(ConnectionError):  # The client may have left.
            super().handle()

    def do_GET(self) -> None:
        if self.wire.down:
            error(503, retry_after="0")(self, {})
            return
        self.send_json({"object": "list", "data": [], "has_more": False})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.wire.enter()
        try:
            if not self.wire.plays_contacts and not self.wire.down and (sound := answer_contact(body)):
                self.wire.contacts.append(body)
                sound(self, body)
                return
            self.wire.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = self.wire.faults.popleft() if self.wire.faults else self.wire.answer
            if self.wire.down:
                answer = error(503, retry_after="0")
            assert answer is not None
            answer(self, body)
        finally:
            self.wire.leave()

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send_data(json.dumps(value).encode(), status, "application/json", **headers)

    def send_data(self, data: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def serve() -> Iterator[Wire]:
    """A running server."""
    wire = Wire()
    handler = type("WireHandler", (Handler,), {"wire": wire})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    wire.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat(content: str | None, *, calls: list[dict[str, Any]] | None = None, finish: str = "stop") -> Answer:
    """An OpenAI chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = calls
    value = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    return lambda handler, _: handler.send_json(value)


def message(*blocks: dict[str, Any], stop: str = "end_turn", cut: bool = False) -> Answer:
    """An Anthropic message as a stream of events; `cut`: the stream ends before the message does."""
    head: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 2},
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": head}]
    for at, block in enumerate(blocks):
        if block["type"] == "text":
            parts = [{"type": "text_delta", "text": part} for part in (block["text"][:2], block["text"][2:])]
            empty = {**block, "text": ""}
        elif block["type"] == "thinking":
            parts = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
            empty = {**block, "thinking": "", "signature": ""}
        elif block["type"] == "redacted_thinking":
            parts, empty = [], block
        else:
            text = json.dumps(block["input"])
            parts = [{"type": "input_json_delta", "partial_json": part} for part in (text[:3], text[3:])]
            empty = {**block, "input": {}}
        events.append({"type": "content_block_start", "index": at, "content_block": empty})
        events += [{"type": "content_block_delta", "index": at, "delta": part} for part in parts]
        events.append({"type": "content_block_stop", "index": at})
    if not cut:
        end = {"stop_reason": stop, "stop_sequence": None}
        events += [{"type": "message_delta", "delta": end, "usage": {"output_tokens": 3}}, {"type": "message_stop"}]
    data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    return lambda handler, _: handler.send_data(data, kind="text/event-stream")


def answer_contact(body: dict[str, Any]) -> Answer | None:
    """The answer of a sound server to a request of `policy.contact`; None for any other request."""
    last = (body.get("messages") or [{}])[-1].get("content")
    text = last[0].get("text", "") if isinstance(last, list) and last else last
    if not isinstance(text, str) or not text.startswith(MARK):
        return None
    openai = "output_config" not in body and not isinstance(last, list)
    if body.get("tools"):
        given = {"colour": "blue"}
        if openai:
            function = {"name": "report_colour", "arguments": json.dumps(given)}
            return chat(None, calls=[{"id": "c", "type": "function", "function": function}], finish="tool_calls")
        return message({"type": "tool_use", "id": "c", "name": "report_colour", "input": given}, stop="tool_use")
    said = json.dumps({"choice": "red"}) if "response_format" in body or "output_config" in body else "ready"
    return chat(said) if openai else message({"type": "text", "text": said})


def error(
    status: int, text: str = "no", *, param: str | None = None, code: str | None = None, **headers: str
) -> Answer:
    """An error in the shape of both providers."""
    value = {"type": "error", "error": {"message": text, "type": "x", "param": param, "code": code}}
    return lambda handler, _: handler.send_json(value, status, **headers)


def raw(data: bytes, kind: str = "application/json") -> Answer:
    """A 200 with any body."""
    return lambda handler, _: handler.send_data(data, kind=kind)


def reset(handler: Handler, _: dict[str, Any]) -> None:
    """End the connection in the middle of the body."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "c", ')
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()

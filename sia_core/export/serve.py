"""Serve OpenAI's chat completions and Anthropic's messages over HTTP for `sia serve`, with a token, on the loopback.

    GET  /health                  no token needed
    GET  /v1/models               agent, policy
    GET  /v1/models/{id}          one of them
    POST /v1/chat/completions     see `inference` for the two models
    POST /v1/messages             the same in Anthropic's form

The token is a bearer token, or Anthropic's `x-api-key`. Each parameter of a request is obeyed, asks for nothing, or is
refused with status 400. Errors have the form of the path's API.
"""

import hmac
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sia_core.domain.errors import ServiceError, SiaError
from sia_core.domain.hashing import digest_bytes
from sia_core.domain.rollout import Sampling
from sia_core.engine.budget import RefusedError
from sia_core.engine.jsonl import BadJsonError, check
from sia_core.engine.wire_formats import (
    Ask,
    chat_events,
    message_events,
    read_chat,
    read_messages,
    stopped,
    write_chat,
    write_messages,
)
from sia_core.export.inference import AGENT, MODELS, Inference
from sia_core.policy.protocol import Completion, EndpointError, RejectedRequestError, Request

HOST = "127.0.0.1"
BODY_LIMIT = 1 << 20
"""Bytes of one request."""
_SAME = {"top_p": (1, None), "store": (False, None), "top_k": (None,)}
"""Parameters with only a default value; other values are refused."""
_MESSAGES = "/v1/messages"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}
"""Anthropic's names of errors, by status; any other is `api_error`."""


class _Json(JSONResponse):
    """JSON of any text, lone surrogates included, which cannot be encoded as they are."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True).encode()


def build_app(inference: Inference, token: str) -> FastAPI:
    """Build the application.

    Args:
        inference: export that answers.
        token: bearer token of every request but /health.
    """
    app = FastAPI(title="sia serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: HttpRequest, call_next: Callable[[HttpRequest], Awaitable[Response]]) -> Response:
        path, headers = request.url.path, request.headers
        shown = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if path != "/health" and not hmac.compare_digest(shown.encode(), token.encode()):
            return _error(path, 401, "authentication", "missing or wrong token; send Authorization: Bearer TOKEN")
        return await call_next(request)

    @app.exception_handler(HTTPException)
    async def unknown(request: HttpRequest, error: HTTPException) -> Response:
        path, method = request.url.path, request.method
        paths = "GET /v1/models, POST /v1/chat/completions, POST /v1/messages"
        return _error(path, error.status_code, "request", f"no {method} {path[:80]}; there are: {paths}")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in MODELS]}

    @app.get("/v1/models/{name:path}")
    async def model(request: HttpRequest, name: str) -> Response:
        if name in MODELS:
            return _Json(_model(name))
        return _error(request.url.path, 404, "model_not_found", _unknown(name))

    @app.post("/v1/chat/completions")
    async def chat(request: HttpRequest) -> Response:
        return await _received(request, lambda data: answer(inference, data))

    @app.post(_MESSAGES)
    async def messages(request: HttpRequest) -> Response:
        return await _received(request, lambda data: answer_messages(inference, data))

    return app


async def _received(request: HttpRequest, respond: Callable[[bytes], Response]) -> Response:
    """Read the body, and answer it in another thread."""
    path, data = request.url.path, b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            return _error(path, 413, "request", f"more than {BODY_LIMIT} bytes")
    try:
        return await run_in_threadpool(respond, data)
    except _FailedError as error:
        return _error(path, error.status, error.kind, str(error))
    except (RefusedError, RejectedRequestError) as error:
        return _error(path, 400, "request", str(error))
    except EndpointError as error:
        return _error(path, 503, "endpoint", str(error))
    except SiaError as error:
        return _error(path, 500, "server", str(error))


def answer(inference: Inference, data: bytes) -> Response:
    """Answer one chat request.

    Raises:
        RefusedError: the request is malformed, or asks for something that is not offered.
        SiaError: the policy cannot answer.
    """
    body = _parse(data)
    ask = read_chat(body)
    replies = _replies(inference, body, ask)
    made = {**write_chat(_key(body, replies), replies), "model": body["model"]}
    if ask.stream:
        return Response(chat_events(made, usage=ask.usage), media_type="text/event-stream")
    return _Json(made)


def answer_messages(inference: Inference, data: bytes) -> Response:
    """Answer one request in Anthropic's form; raise as `answer` does."""
    body = _parse(data)
    ask = read_messages(body)
    replies = _replies(inference, body, ask)
    made = {**write_messages(_key(body, replies), replies[0]), "model": body["model"]}
    return Response(message_events(made), media_type="text/event-stream") if ask.stream else _Json(made)


def _replies(inference: Inference, body: dict[str, Any], ask: Ask) -> list[Completion]:
    model = body.get("model")
    if model not in MODELS:
        raise RefusedError("request", _unknown(model))
    for name, allowed in _SAME.items():
        if body.get(name) not in allowed:
            raise RefusedError("request", f"{name}={str(body[name])[:40]} is not offered")
    if model == AGENT:
        return [_solve(inference, body, ask)]
    sampling, seed = _sampling(inference.sampling, body, ask), _seed(body)
    requests = [Request(ask.messages, sampling, one, tools=ask.tools) for one in inference.seeds(seed, ask.n)]
    return [stopped(inference.reply(request), ask.stop) for request in requests]


def _solve(inference: Inference, body: dict[str, Any], ask: Ask) -> Completion:
    if len(ask.messages) != 1 or ask.messages[0]["role"] != "user" or ask.n != 1 or ask.tools or ask.stop:
        raise RefusedError("request", "agent takes one user message with a problem, no tools, no stop, and n = 1")
    limits = ("temperature", "max_completion_tokens", *(() if ask.must_limit else ("max_tokens",)))
    if any(body.get(name) is not None for name in limits):
        raise RefusedError("request", "agent samples as it was scored: leave out temperature and max_tokens")
    problem = _problem(inference, str(ask.messages[0]["content"]))
    rollout = inference.solve(problem, _seed(body))
    failure = rollout.failure
    if failure is not None:
        raise _FailedError(503 if failure.infrastructure else 422, failure.kind, failure.reason or failure.kind)
    prompt = sum(turn.prompt_tokens or len(turn.prompt_ids or ()) for turn in rollout.turns)
    output = sum(turn.output_tokens or len(turn.output_ids or ()) for turn in rollout.turns)
    given = rollout.answer
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return Completion(text, "", prompt_tokens=prompt, output_tokens=output)


class _FailedError(Exception):
    """The harness solved nothing."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind = status, kind


def _problem(inference: Inference, text: str) -> dict[str, Any]:
    wanted = f"a JSON object with {', '.join(inference.problem_keys) or 'what the task shows of a problem'}"
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("request", f"the message is not a problem: expected {wanted}") from None
    missing = [key for key in inference.problem_keys if key not in problem] if isinstance(problem, dict) else []
    if not isinstance(problem, dict) or missing:
        raise RefusedError("request", f"the problem lacks {', '.join(missing) or 'a form'}: expected {wanted}")
    return problem


def _sampling(default: Sampling, body: dict[str, Any], ask: Ask) -> Sampling:
    temperature = body.get("temperature")
    if temperature is None:
        temperature = default.temperature
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature <= 2:
        raise RefusedError("request", "temperature: expected a number above 0, at most 2; no greedy sampling")
    return Sampling(float(temperature), ask.max_tokens or default.max_tokens)


def _seed(body: dict[str, Any]) -> int | None:
    seed = body.get("seed")
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int) or abs(seed) >= 1 << 63:
        raise RefusedError("request", "seed: expected a whole number of at most 63 bits")
    return seed


def _key(body: dict[str, Any], replies: list[Completion]) -> str:
    """Id of an answer: the same for the same replies to the same request."""
    return digest_bytes(json.dumps([body, [one.text for one in replies]], sort_keys=True).encode())


def _unknown(model: object) -> str:
    return f"unknown model {str(model)[:80]!r}; there are: {', '.join(MODELS)}"


def _model(name: str) -> dict[str, Any]:
    shown = {"id": name, "object": "model", "created": 0, "owned_by": "sia"}
    # Anthropic's clients read these.
    return {**shown, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
        if not isinstance(body, dict):
            raise RefusedError("request", "the body is not a JSON object")
        check(body)
    except (ValueError, RecursionError) as error:
        why = f": {error}" if isinstance(error, BadJsonError) else ""
        raise RefusedError("request", f"the body is not JSON{why}") from None
    return body


def _error(path: str, status: int, kind: str, message: str) -> Response:
    if path.startswith(_MESSAGES):
        told = {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}
        return _Json(told, status)
    return _Json({"error": {"type": kind, "message": message, "code": kind, "param": None}}, status)


def listen(port: int) -> socket.socket:
    """Listen on a socket on the loopback; port 0 takes a free port.

    Raises:
        ServiceError: the port is taken.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen()  # A client that connects immediately waits instead of being refused.
    except OSError as error:
        made.close()
        what = f"port {port} is not available: {error.strerror}"
        raise ServiceError(what, where="sia serve", hint="use another: --port 0 picks a free one") from error
    return made

"""Serve OpenAI's chat completions over HTTP for `sia serve`, with a bearer token, on the loopback.

    GET  /health                  no token needed
    GET  /v1/models               agent, policy
    POST /v1/chat/completions     see `inference` for the two models

Each parameter of a request is obeyed, or the request is refused with status 400. Errors have OpenAI's form.
"""

import hmac
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sia_core.domain.errors import ServiceError, SiaError
from sia_core.domain.hashing import digest_json
from sia_core.domain.rollout import Sampling
from sia_core.engine.budget import RefusedError
from sia_core.engine.wire_formats import Ask, chat_events, read_chat, write_chat
from sia_core.export.inference import AGENT, MODELS, Player
from sia_core.policy.protocol import Completion, EndpointError, RejectedRequestError, Request

HOST = "127.0.0.1"
BODY_LIMIT = 1 << 20
"""Bytes of one request."""
_SAME = {"top_p": (1, None), "store": (False, None), "tool_choice": ("auto", "none", None)}
"""Parameters with only a default value; other values are refused."""


def build_app(player: Player, token: str) -> FastAPI:
    """Build the application.

    Args:
        player: export that answers.
        token: bearer token of every request but /health.
    """
    app = FastAPI(title="sia serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: HttpRequest, call_next: Callable[[HttpRequest], Awaitable[Response]]) -> Response:
        shown = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.url.path != "/health" and not hmac.compare_digest(shown.encode(), token.encode()):
            return _error(401, "authentication", "missing or wrong token; send Authorization: Bearer TOKEN")
        return await call_next(request)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "sia"} for name in MODELS]}

    @app.post("/v1/chat/completions")
    async def chat(request: HttpRequest) -> Response:
        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > BODY_LIMIT:
                return _error(413, "request", f"more than {BODY_LIMIT} bytes")
        try:
            return await run_in_threadpool(answer, player, data)
        except (RefusedError, RejectedRequestError) as error:
            return _error(400, "request", str(error))
        except EndpointError as error:
            return _error(503, "endpoint", str(error))
        except SiaError as error:
            return _error(500, "server", str(error))

    return app


def answer(player: Player, data: bytes) -> Response:
    """Answer one chat request.

    Raises:
        RefusedError: the request is malformed, or asks for something that is not offered.
        SiaError: the policy cannot answer.
    """
    body = _parse(data)
    model = body.get("model")
    if model not in MODELS:
        raise RefusedError("request", f"unknown model {str(model)[:80]!r}; there are: {', '.join(MODELS)}")
    for name, allowed in _SAME.items():
        if body.get(name) not in allowed:
            raise RefusedError("request", f"{name}={str(body[name])[:40]} is not offered")
    ask = read_chat(body)
    if model == AGENT:
        return _solve(player, body, ask)
    sampling, seed = _sampling(player.sampling, body, ask), _seed(body)
    completions = [
        player.reply(Request(ask.messages, sampling, one, tools=ask.tools)) for one in player.seeds(seed, ask.n)
    ]
    return _written(body, ask, completions)


def _solve(player: Player, body: dict[str, Any], ask: Ask) -> Response:
    if len(ask.messages) != 1 or ask.messages[0]["role"] != "user" or ask.n != 1 or ask.tools:
        raise RefusedError("request", "agent takes one user message with a problem, no tools, and n = 1")
    if any(body.get(name) is not None for name in ("temperature", "max_tokens", "max_completion_tokens")):
        raise RefusedError("request", "agent samples as it was scored: leave out temperature and max_tokens")
    problem = _problem(player, str(ask.messages[0]["content"]))
    rollout = player.solve(problem, _seed(body))
    failure = rollout.failure
    if failure is not None:
        return _error(503 if failure.infrastructure else 422, failure.kind, failure.reason or failure.kind)
    prompt = sum(turn.prompt_tokens or len(turn.prompt_ids or ()) for turn in rollout.turns)
    output = sum(turn.output_tokens or len(turn.output_ids or ()) for turn in rollout.turns)
    given = rollout.answer
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return _written(body, ask, [Completion(text, "", prompt_tokens=prompt, output_tokens=output)])


def _problem(player: Player, text: str) -> dict[str, Any]:
    wanted = f"a JSON object with {', '.join(player.problem_keys) or 'what the task shows of a problem'}"
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("request", f"the message is not a problem: expected {wanted}") from None
    missing = [key for key in player.problem_keys if key not in problem] if isinstance(problem, dict) else []
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


def _written(body: dict[str, Any], ask: Ask, completions: list[Completion]) -> Response:
    made = {**write_chat(digest_json([body, [one.text for one in completions]]), completions), "model": body["model"]}
    if ask.stream:
        return Response(chat_events(made), media_type="text/event-stream")
    return JSONResponse(made)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedError("request", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise RefusedError("request", "the body is not a JSON object")
    return body


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message, "code": kind}}, status)


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

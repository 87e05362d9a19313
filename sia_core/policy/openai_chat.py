"""`openai:MODEL[@BASE_URL]`: chat completions of OpenAI, or of any compatible server.

Requests of rollouts are plain. Requests of agents, whose repeats are limited (`retry.Retry`), ask for a stream: agents
write long replies, and only silence of a stream tells that the server is gone. The server returns no token ids, so
rollouts cannot train weights, and logprobs are not requested. Options become a strict JSON schema.
"""

from typing import Any, Final

import httpx2
import openai

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.choice import choose, room_for, schema_of
from sia_core.policy.openai_chunks import gather
from sia_core.policy.openai_shapes import Chat, read_completion, sendable
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.retry import Retry
from sia_core.policy.server import Anything, Server, refuse_adapter
from sia_core.policy.spec import ServerSpec
from sia_core.policy.streaming import Heard, Way, Ways, limits, plain_body, watched
from sia_core.policy.window import read_window

_WINDOW_S: Final = 30.0
_LIMITS: Final = ("max_tokens", "max_completion_tokens")


class OpenAIPolicy:
    """A model behind chat completions. Thread-safe."""

    trainable = False

    def __init__(self, spec: ServerSpec, retry: Retry | None = None) -> None:
        key = spec.key()
        self.spec = spec.spec
        self.digest = spec.digest
        self.concurrency = spec.concurrency()
        self._endpoint = spec
        retry = retry or Retry()
        self._server = Server(spec, key, retry)
        self._careful = retry.careful
        self._ways = Ways("counted", "stream", "plain") if self._careful else Ways("plain")
        self._client = openai.OpenAI(api_key=key, base_url=spec.base_url, max_retries=0)
        # OpenAI's own models take only the new name, many other servers only the old name.
        self._limit = _LIMITS[spec.official]

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        refuse_adapter(request, self.spec)
        if request.options is None:
            return self._reply(request, request.seed, request.sampling.max_tokens, {})
        options = request.options
        wanted = {"name": "choice", "strict": True, "schema": schema_of(options)}
        extra = {"response_format": {"type": "json_schema", "json_schema": wanted}}

        def ask(attempt: int) -> Completion:
            room = room_for(options, request.sampling.max_tokens)
            return self._reply(request, request.seed + attempt, room, extra)

        return choose(options, ask, self.spec)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Return an empty probe; raise if the server, or OpenAI's own model, cannot be reached."""

        def send(timeout: float) -> bytes:
            models = self._client.models.with_raw_response
            if self._endpoint.official:
                return models.retrieve(self._endpoint.model, timeout=timeout).http_response.content
            return models.list(timeout=timeout).http_response.content

        self._server.ask(send, Anything)
        return ()

    def window(self) -> int | None:
        """Ask the server for the model's window of prompt and reply together, in tokens; None if it does not say."""
        try:
            found = self._client.models.with_raw_response.list(timeout=_WINDOW_S).http_response.content
        except (openai.OpenAIError, httpx2.HTTPError):
            return None
        return read_window(found, self._endpoint.model)

    def _reply(self, request: Request, seed: int, max_tokens: int, extra: dict[str, Any]) -> Completion:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": sendable(request.messages),
            "seed": seed % 2**31,  # Some servers keep 32 bits.
            **extra,
        }
        if not self._endpoint.official or request.sampling.temperature != 1.0:
            # OpenAI's default is 1, and its reasoning models take no other value, or no temperature at all.
            body["temperature"] = request.sampling.temperature
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        return read_completion(request, self._ask(request, body, max_tokens))

    def _ask(self, request: Request, body: dict[str, Any], max_tokens: int) -> Chat:
        def ask(limit: str) -> Chat:
            whole = {**body, limit: max_tokens}

            def send(timeout: float) -> bytes:
                heard = Heard(request.on_progress)
                return self._ways.ask(lambda way: self._send(way, whole, timeout, heard))

            return self._server.ask(send, Chat, request=request)

        limit = self._limit
        try:
            return ask(limit)
        except PolicyError as error:
            other = _LIMITS[limit == _LIMITS[0]]
            if f"Use '{other}' instead" not in error.what:
                raise
        self._limit = other
        return ask(other)

    def _send(self, way: Way, body: dict[str, Any], timeout: float, heard: Heard) -> bytes:
        within = limits(timeout) if self._careful else timeout
        if way == "plain":
            created = self._client.chat.completions.with_raw_response.create(**body, timeout=within)
            return created.http_response.content
        counted: dict[str, Any] = {"stream_options": {"include_usage": True}} if way == "counted" else {}
        with self._client.chat.completions.create(**body, **counted, stream=True, timeout=within) as stream:
            plain = plain_body(stream.response)
            if plain is None:
                return gather(watched(stream), heard)
        self._ways.no_stream(plain)
        return plain

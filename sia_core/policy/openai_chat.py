"""`openai:MODEL[@BASE_URL]`: chat completions of OpenAI, or of any compatible server.

Requests of rollouts are plain. Requests of agents, whose repeats are limited (`retry.Retry`), ask for a stream: agents
write long replies, and only silence of a stream tells that the server is gone. The server returns no token ids, so
rollouts cannot train weights, and logprobs are not requested. Parameters that the server refuses are left out or
renamed (`parameters`). Options become a strict JSON schema, or numbers in the text (`choice`).
"""

from typing import Any, Final

import httpx2
import openai

from sia_core.domain.candidate import Adapter
from sia_core.policy.choice import Chooser, Schema
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.openai_chunks import gather
from sia_core.policy.openai_shapes import Chat, read_completion, sendable
from sia_core.policy.parameters import LIMITS, Parameters
from sia_core.policy.protocol import Completion, Request, most_tokens, under_ceiling
from sia_core.policy.retry import Retry
from sia_core.policy.server import Anything, Server, refuse_adapter
from sia_core.policy.spec import ServerSpec
from sia_core.policy.streaming import Heard, Way, Ways, limits, plain_body, watched
from sia_core.policy.window import read_window

_WINDOW_S: Final = 30.0


class OpenAIPolicy:
    """A model behind chat completions. Thread-safe."""

    trainable = False

    def __init__(self, spec: ServerSpec, retry: Retry | None = None, learner: Learner | None = None) -> None:
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
        self._learner = learner or Learner()
        # OpenAI's own models take only the new name, many other servers only the old name.
        self._parameters = Parameters(self._learner, LIMITS[spec.official])
        self._chooser = Chooser(self._learner, self.spec)

    @property
    def dialect(self) -> Dialect:
        """Deviations of the server that were learnt so far."""
        return self._learner.dialect

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        refuse_adapter(request, self.spec)
        if request.options is None:
            request = under_ceiling(request, most_tokens(request))
            return self._reply(request, request.seed, request.sampling.max_tokens, {})
        return self._chooser.choose(request, self._choice)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Return an empty probe; raise if the server, or OpenAI's own model, cannot be reached."""

        def send(timeout: float) -> bytes:
            models = self._client.models.with_raw_response
            if self._endpoint.official:
                return models.retrieve(self._endpoint.model, timeout=timeout).http_response.content
            return models.list(timeout=timeout).http_response.content

        self._server.ask(send, Anything)
        return ()

    def _choice(self, request: Request, attempt: int, room: int, schema: Schema | None) -> Completion:
        wanted = {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}
        return self._reply(request, request.seed + attempt, room, {"response_format": wanted} if schema else {})

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
            "max_tokens": max_tokens,
            "seed": seed % 2**31,  # Some servers keep 32 bits.
            **extra,
        }
        if not self._endpoint.official or request.sampling.temperature != 1.0:
            # OpenAI's default is 1, and its reasoning models take no other value, or no temperature at all.
            body["temperature"] = request.sampling.temperature
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        return read_completion(request, self._ask(request, body))

    def _ask(self, request: Request, body: dict[str, Any]) -> Chat:
        complaint = self._server.complaint(request)

        def send(timeout: float) -> bytes:
            heard = Heard(request.on_progress)
            return self._ways.ask(
                lambda way: self._parameters.ask(body, lambda one: self._send(way, one, timeout, heard), complaint)
            )

        return self._server.ask(send, Chat, request=request)

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

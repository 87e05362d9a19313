"""`anthropic:MODEL[@BASE_URL]`: the messages API of Anthropic.

Replies are streamed, because proxies cut off long silent replies. Agents, whose repeats are limited (`retry.Retry`),
ask a server without streams for a plain reply. The API returns no token ids and no logprobs, so rollouts cannot train
weights, and takes no seed. Options become a JSON schema of the reply, or numbers in the text (`choice`): models of 2026
refuse a tool that must be called.
"""

from typing import Any, Final

import anthropic

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.anthropic_events import gather
from sia_core.policy.anthropic_reply import Reply, read_completion
from sia_core.policy.anthropic_shapes import translate_messages, translate_tool
from sia_core.policy.choice import Chooser, Schema
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.parameters import LIMITS, Parameters
from sia_core.policy.protocol import Completion, Request, most_tokens, under_ceiling
from sia_core.policy.retry import Retry
from sia_core.policy.server import Anything, Server, refuse_adapter
from sia_core.policy.spec import ServerSpec
from sia_core.policy.streaming import Heard, Way, Ways, limits, plain_body, watched

HOTTEST: Final = 1.0


class AnthropicPolicy:
    """A model behind the messages API. Thread-safe."""

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
        self._ways = Ways("stream", "plain") if self._careful else Ways("stream")
        self._client = anthropic.Anthropic(api_key=key, base_url=spec.base_url, max_retries=0)
        self._learner = learner or Learner()
        self._parameters = Parameters(self._learner, LIMITS[0])
        self._chooser = Chooser(self._learner, self.spec)

    @property
    def dialect(self) -> Dialect:
        """Deviations of the server that were learnt so far."""
        return self._learner.dialect

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        refuse_adapter(request, self.spec)
        if request.sampling.temperature > HOTTEST:
            what = f"the API takes no temperature above 1, and {request.sampling.temperature:g} was requested"
            raise PolicyError(what, where=self.spec, hint="lower [sampling] temperature in task.toml")
        if request.options is None:
            request = under_ceiling(request, most_tokens(request))
            return self._reply(request, request.sampling.max_tokens, {})
        return self._chooser.choose(request, self._choice)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Return an empty probe; raise if the server, or Anthropic's own model, cannot be reached."""

        def send(timeout: float) -> bytes:
            models = self._client.models.with_raw_response
            if self._endpoint.official:
                return models.retrieve(self._endpoint.model, timeout=timeout).http_response.content
            return models.list(limit=1, timeout=timeout).http_response.content

        self._server.ask(send, Anything)
        return ()

    def _choice(self, request: Request, attempt: int, room: int, schema: Schema | None) -> Completion:
        wanted = {"format": {"type": "json_schema", "schema": schema}}
        return self._reply(request, room, {"output_config": wanted} if schema else {})

    def _reply(self, request: Request, max_tokens: int, extra: dict[str, Any]) -> Completion:
        system, messages = translate_messages(request.messages)
        body: dict[str, Any] = {"model": self._endpoint.model, "messages": messages, "max_tokens": max_tokens, **extra}
        if request.tools:
            # Earlier messages may name tools, so a choice must define the tools too.
            body["tools"] = [translate_tool(tool) for tool in request.tools]
        if request.sampling.temperature != HOTTEST:
            # 1 is the default. The SDK dropped this parameter, which the API of older models still has.
            body["extra_body"] = {"temperature": request.sampling.temperature}
        if system:
            # A long system prompt is paid once, then read from the cache.
            body["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        if request.growing:
            # The next request reads everything up to here from the cache.
            last = messages[-1]["content"]
            last[-1] = {**last[-1], "cache_control": {"type": "ephemeral"}}

        complaint = self._server.complaint(request)

        def send(timeout: float) -> bytes:
            heard = Heard(request.on_progress)
            return self._ways.ask(
                lambda way: self._parameters.ask(body, lambda one: self._send(way, one, timeout, heard), complaint)
            )

        return read_completion(request, self._server.ask(send, Reply, request=request))

    def _send(self, way: Way, body: dict[str, Any], timeout: float, heard: Heard) -> bytes:
        within = limits(timeout) if self._careful else timeout
        if way == "plain":
            return self._client.messages.with_raw_response.create(**body, timeout=within).http_response.content
        with self._client.messages.create(**body, stream=True, timeout=within) as stream:
            plain = plain_body(stream.response)
            if plain is None:
                return gather(watched(stream), heard)
        self._ways.no_stream(plain)
        return plain

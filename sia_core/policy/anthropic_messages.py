"""`anthropic:MODEL[@BASE_URL]`: the messages API of Anthropic.

Replies are streamed, because proxies cut off long silent replies. Agents, whose repeats are limited (`retry.Retry`),
ask a server without streams for a plain reply. The API returns no token ids and no logprobs, so rollouts cannot train
weights, and takes no seed. Options become a JSON schema of the reply, or numbers in the text (`choice`): models of 2026
refuse a tool that must be called.
"""

import json
from typing import Any, Final

import anthropic

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import ToolCall
from sia_core.policy.anthropic_shapes import translate_messages, translate_tool
from sia_core.policy.choice import Chooser, Schema
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.faults import GarbledError
from sia_core.policy.parameters import LIMITS, Parameters
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.retry import Retry
from sia_core.policy.scripted import render
from sia_core.policy.server import Answer, Anything, Server, refuse_adapter
from sia_core.policy.spec import ServerSpec
from sia_core.policy.streaming import BROKEN, Heard, Way, Ways, limits, plain_body, watched

HOTTEST: Final = 1.0
FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_KEPT: Final = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
}
"""Fields that the API accepts in each kind of returned block."""


class _Block(Answer):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: Any = None
    thinking: str = ""
    signature: str = ""
    data: str = ""


class _Usage(Answer):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Reply(Answer):
    content: list[_Block]
    stop_reason: str
    """Reason of the end; missing if the stream ended early."""
    usage: _Usage


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

            def by(way: Way) -> bytes:
                return self._parameters.ask(body, lambda fitted: self._send(way, fitted, timeout, heard), complaint)

            return self._ways.ask(by)

        return _completion(request, self._server.ask(send, _Reply, request=request))

    def _send(self, way: Way, body: dict[str, Any], timeout: float, heard: Heard) -> bytes:
        within = limits(timeout) if self._careful else timeout
        if way == "plain":
            return self._client.messages.with_raw_response.create(**body, timeout=within).http_response.content
        with self._client.messages.stream(**body, timeout=within) as stream:
            plain = plain_body(stream.response)
            if plain is None:
                for event in watched(stream):
                    heard.add(*_written(event))
                return _final(stream)
        self._ways.no_stream(plain)
        return plain


def _written(event: Any) -> tuple[str | None, ...]:
    """Return text, thinking and arguments that an event adds to the reply."""
    if event.type != "content_block_delta":
        return ()
    return tuple(getattr(event.delta, name, None) for name in ("text", "thinking", "partial_json"))


def _final(stream: anthropic.MessageStream[Any]) -> bytes:
    try:
        return stream.get_final_message().model_dump_json(warnings=False).encode()
    except BROKEN as error:
        raise GarbledError(f"a broken stream: {type(error).__name__}: {error}") from None


def _completion(request: Request, reply: _Reply) -> Completion:
    usage = reply.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return Completion(
        "".join(block.text for block in reply.content if block.type == "text"),
        render(request.messages),
        finish=FINISH.get(reply.stop_reason, reply.stop_reason),
        tool_calls=tuple(
            ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
            for block in reply.content
            if block.type == "tool_use"
        ),
        prompt_tokens=usage.input_tokens + read + written,
        output_tokens=usage.output_tokens,
        cached_tokens=read,
        cache_write_tokens=written,
        blocks=_as_sent(reply.content),
    )


def _as_sent(content: list[_Block]) -> tuple[dict[str, Any], ...]:
    """Return the blocks to send back with the next request, if there is more than text and tool calls."""
    if all(block.type in ("text", "tool_use") for block in content):
        return ()
    return tuple(
        {"type": block.type, **{name: getattr(block, name) for name in _KEPT[block.type]}}
        for block in content
        if block.type in _KEPT
    )

"""`openai:MODEL[@BASE_URL]`: chat completions of OpenAI, or of any compatible server.

Requests of rollouts are plain. Requests of agents, whose repeats are limited (`retry.Retry`), ask for a stream: agents
write long replies, and only silence of a stream tells that the server is gone. The server returns no token ids, so
rollouts cannot train weights, and logprobs are not requested. Parameters that the server refuses are left out or
renamed (`parameters`). Options become a strict JSON schema, or numbers in the text (`choice`).
"""

from typing import Any

import openai
from pydantic import Field

from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import ToolCall
from sia_core.policy.choice import Chooser, Schema
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.openai_chunks import gather
from sia_core.policy.parameters import LIMITS, Parameters
from sia_core.policy.protocol import Completion, Message, Request
from sia_core.policy.retry import Retry
from sia_core.policy.scripted import render
from sia_core.policy.server import Answer, Anything, Server, refuse_adapter
from sia_core.policy.spec import ServerSpec
from sia_core.policy.streaming import Heard, Way, Ways, limits, plain_body, watched


class _Function(Answer):
    name: str
    arguments: str = ""


class _Call(Answer):
    id: str = ""
    function: _Function


class _Message(Answer):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Answer):
    message: _Message
    finish_reason: str | None = None


class _Details(Answer):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(Answer):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chat(Answer):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


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

    def _reply(self, request: Request, seed: int, max_tokens: int, extra: dict[str, Any]) -> Completion:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [_message(message) for message in request.messages],
            "max_tokens": max_tokens,
            "seed": seed % 2**31,  # Some servers keep 32 bits.
            **extra,
        }
        if not self._endpoint.official or request.sampling.temperature != 1.0:
            # OpenAI's default is 1, and its reasoning models take no other value, or no temperature at all.
            body["temperature"] = request.sampling.temperature
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        return _completion(request, self._ask(request, body))

    def _ask(self, request: Request, body: dict[str, Any]) -> _Chat:
        complaint = self._server.complaint(request)

        def send(timeout: float) -> bytes:
            heard = Heard(request.on_progress)

            def by(way: Way) -> bytes:
                return self._parameters.ask(body, lambda fitted: self._send(way, fitted, timeout, heard), complaint)

            return self._ways.ask(by)

        return self._server.ask(send, _Chat, request=request)

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


def _message(message: Message) -> dict[str, Any]:
    """Return a message as servers accept it: without `blocks`, and with a text unless the message calls tools."""
    made = {name: value for name, value in message.items() if name != "blocks"}
    if made.get("content") is None and not made.get("tool_calls"):
        made["content"] = ""
    return made


def _completion(request: Request, chat: _Chat) -> Completion:
    choice, usage = chat.choices[0], chat.usage or _Usage()
    message = choice.message
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    finish = choice.finish_reason or "stop"
    details = usage.prompt_tokens_details or _Details()
    if calls and finish in ("stop", "function_call"):
        finish = "tool_calls"
    return Completion(
        message.content or message.refusal or "",
        render(request.messages),
        finish="content_filter" if message.refusal else finish,
        tool_calls=calls,
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=details.cached_tokens or 0,
        cache_write_tokens=details.cache_write_tokens or 0,
    )

"""`anthropic:MODEL[@BASE_URL]`: the messages of Anthropic.

Replies are streamed, as long ones must be. No token ids come back, so its rollouts cannot train weights.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anthropic

from sia_core.candidate import Adapter
from sia_core.errors import PolicyError
from sia_core.policy.endpoint import Endpoint, GarbageError, Retries, pick_option
from sia_core.policy.http_spec import KEYS, HttpSpec
from sia_core.policy.protocol import Completion, Message, Request, Tool
from sia_core.policy.scripted import check_options, render
from sia_core.rollout import ToolCall

FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


class AnthropicPolicy:
    """A model behind the messages API. Thread-safe."""

    trainable = False

    def __init__(self, spec: str, http: HttpSpec, *, concurrency: int, retries: Retries | None = None) -> None:
        self.spec = spec
        self.digest = http.digest
        self.concurrency = concurrency
        self._model = http.model
        self._endpoint = Endpoint(spec, KEYS[http.kind], http.key, retries or Retries())
        self._client = anthropic.Anthropic(api_key=http.key, base_url=http.url, max_retries=0, timeout=600.0)

    def sample(self, request: Request) -> Completion:
        """As `Policy.sample`. Options become the enum of a tool that must be called: no logprobs are known."""
        if request.adapter is not None:
            raise PolicyError("takes no adapter", where=self.spec)
        if request.sampling.temperature > 1.0:
            what = f"takes no temperature above 1, the task asks for {request.sampling.temperature:g}"
            raise PolicyError(what, where=self.spec, hint="lower [sampling] temperature in task.toml")
        if request.options is None:
            return self._reply(request, {"tools": [_tool(tool) for tool in request.tools]} if request.tools else {})
        check_options(request.options)
        choice = {"type": "string", "enum": list(request.options)}
        schema = {"type": "object", "properties": {"choice": choice}, "required": ["choice"]}
        forced = {
            "tools": [{"name": "choose", "description": "Choose one.", "input_schema": schema}],
            "tool_choice": {"type": "tool", "name": "choose"},
        }
        return pick_option(request.options, lambda _: _unwrap(self._reply(request, forced)), self.spec)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Asks for the list of models, to see that it can be reached."""
        self._endpoint.ask(lambda: self._client.models.list(limit=1))
        return ()

    def _reply(self, request: Request, extra: dict[str, Any]) -> Completion:
        system, messages = _messages(request.messages)
        options: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": request.sampling.max_tokens,
            **extra,
        }
        if request.sampling.temperature != 1.0:
            # The client has no such parameter any more: recent models refuse it, earlier ones still take it.
            options["extra_body"] = {"temperature": request.sampling.temperature}
        if system:
            # A long system prompt is paid in full once, then read from the cache.
            options["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        return self._endpoint.ask(lambda: self._stream(options, request))

    def _stream(self, options: dict[str, Any], request: Request) -> Completion:
        try:
            with self._client.messages.stream(**options) as stream:
                answer = stream.get_final_message()
            if answer.stop_reason is None:
                raise GarbageError("the stream ended before the message")
            text = "".join(block.text for block in answer.content if block.type == "text")
            calls = tuple(
                ToolCall(block.id, block.name, json.dumps(block.input))
                for block in answer.content
                if block.type == "tool_use"
            )
            usage = answer.usage
            read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        except (AttributeError, IndexError, TypeError, AssertionError) as error:
            raise GarbageError(f"not a message: {error}") from error
        return Completion(
            text,
            render(request.messages),
            finish=FINISH.get(answer.stop_reason, str(answer.stop_reason)),
            tool_calls=calls,
            prompt_tokens=read,
            output_tokens=usage.output_tokens,
        )


def _messages(messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """System text, and turns that alternate: Anthropic wants tool results in the user's turn."""
    system = "\n\n".join(str(message["content"]) for message in messages if message["role"] == "system")
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _blocks(message)
    return system, turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"] or ""}
        return [result]
    blocks: list[dict[str, Any]] = []
    if message["content"]:
        blocks.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls", ()):
        function = call["function"]
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": function["name"], "input": json.loads(function["arguments"])}
        )
    return blocks


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool["function"]
    return {
        "name": function["name"],
        "description": function.get("description", ""),
        "input_schema": function.get("parameters") or {"type": "object"},
    }


def _unwrap(completion: Completion) -> Completion:
    for call in completion.tool_calls:
        choice = json.loads(call.arguments).get("choice")
        return replace(completion, text=str(choice), tool_calls=(), finish="stop")
    return completion

"""`openai:MODEL[@BASE_URL]`: chat completions of OpenAI, or of any server that speaks them.

No token ids come back, so its rollouts cannot train weights.
"""

import json
from dataclasses import replace
from typing import Any

import openai

from sia_core.candidate import Adapter
from sia_core.errors import PolicyError
from sia_core.policy.endpoint import Endpoint, GarbageError, Retries, pick_option
from sia_core.policy.http_spec import KEYS, HttpSpec
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.scripted import check_options, render
from sia_core.rollout import ToolCall

FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}


class OpenAIPolicy:
    """A model behind chat completions. Thread-safe."""

    trainable = False

    def __init__(self, spec: str, http: HttpSpec, *, concurrency: int, retries: Retries | None = None) -> None:
        self.spec = spec
        self.digest = http.digest
        self.concurrency = concurrency
        self._model = http.model
        # OpenAI's own models take only the new name, many other servers only the old one.
        self._limit = "max_tokens" if http.url else "max_completion_tokens"
        self._endpoint = Endpoint(spec, KEYS[http.kind], http.key, retries or Retries())
        self._client = openai.OpenAI(api_key=http.key, base_url=http.url, max_retries=0, timeout=600.0)

    def sample(self, request: Request) -> Completion:
        """As `Policy.sample`. Options become a JSON schema with an enum: no logprobs are known."""
        if request.adapter is not None:
            raise PolicyError("takes no adapter", where=self.spec)
        if request.options is None:
            return self._reply(request, request.seed, {})
        check_options(request.options)
        schema = {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(request.options)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}
        return pick_option(
            request.options,
            lambda attempt: _unwrap(self._reply(request, request.seed + attempt, {"response_format": wanted})),
            self.spec,
        )

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Asks for the model's description, to see that it can be reached."""
        self._endpoint.ask(self._client.models.list)
        return ()

    def _reply(self, request: Request, seed: int, extra: dict[str, Any]) -> Completion:
        options: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(message) for message in request.messages],
            "temperature": request.sampling.temperature,
            "seed": seed % 2**31,
            self._limit: request.sampling.max_tokens,
            **extra,
        }
        if request.tools:
            options["tools"] = [dict(tool) for tool in request.tools]
        return self._endpoint.ask(lambda: _read(self._client.chat.completions.create(**options), request))


def _read(answer: Any, request: Request) -> Completion:
    try:
        choice, usage = answer.choices[0], answer.usage
        calls = tuple(
            ToolCall(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
        )
        text = choice.message.content or getattr(choice.message, "refusal", None) or ""
        finish = FINISH.get(choice.finish_reason, str(choice.finish_reason))
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
    except (AttributeError, IndexError, TypeError) as error:
        raise GarbageError(f"not a chat completion: {error}") from error
    return Completion(
        str(text),
        render(request.messages),
        finish=finish,
        tool_calls=calls,
        prompt_tokens=int(tokens[0]),
        output_tokens=int(tokens[1]),
    )


def _unwrap(completion: Completion) -> Completion:
    try:
        return replace(completion, text=str(json.loads(completion.text)["choice"]))
    except (ValueError, KeyError, TypeError):
        return completion

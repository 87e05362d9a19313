"""Render messages and tools with a model's chat template, and read tool calls in the model's replies.

Calls are read only in a known form: by the tokenizer's own response template, or in the form of Hermes,
<tool_call>{"name": ..., "arguments": {...}}</tool_call>.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError

from sia_core.domain.rollout import ToolCall
from sia_core.policy.protocol import Message, RejectedRequestError, Request
from sia_core.policy.scripted import render

_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def render_prompt(tokenizer: Any, request: Request) -> str:
    """Render the prompt with the model's chat template; without a template, as lines of roles and texts.

    Raises:
        RejectedRequestError: tools or messages that the template does not accept.
    """
    if request.tools or any(one.get("role") == "tool" or one.get("tool_calls") for one in request.messages):
        _check_tools(tokenizer, request)
    if tokenizer.chat_template is None:
        return f"{render(request.messages)}\nassistant: "
    tools = [dict(tool) for tool in request.tools] or None
    try:
        return str(
            tokenizer.apply_chat_template(
                [_message(message) for message in request.messages],
                tools=tools,
                tokenize=False,
                add_generation_prompt=True,
            )
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise RejectedRequestError(
            f"the model's chat template does not take these messages: {error}",
            where="messages",
            hint="start with system or user, then let user and assistant take turns",
        ) from error


def read_calls(tokenizer: Any, request: Request, prompt: str, raw: str) -> tuple[str | None, tuple[ToolCall, ...]]:
    """Return the text beside the calls of a reply, and the calls. Without a call, the text is None.

    Args:
        raw: the reply with its special tokens.
    """
    calls: list[tuple[str, Any]] = []
    if getattr(tokenizer, "response_template", None):
        message = tokenizer.parse_response(raw, prefix=prompt, tools=[dict(tool) for tool in request.tools])
        text = str(message.get("content") or "")
        calls = [_function(call.get("function")) for call in message.get("tool_calls") or ()]
    else:
        text = _HERMES.sub("", raw)
        calls = [_function(_json(found)) for found in _HERMES.findall(raw)]
    if not calls or any(not name for name, _ in calls):
        return None, ()
    made = tuple(
        ToolCall(f"call_{request.key[:12]}_{index}", name, _text(arguments))
        for index, (name, arguments) in enumerate(calls)
    )
    return text.strip(), made


def _check_tools(tokenizer: Any, request: Request) -> None:
    template = "" if tokenizer.chat_template is None else str(tokenizer.get_chat_template(tools=[]))
    if not re.search(r"\btools\b", template):
        raise RejectedRequestError(
            "this model's chat template takes no tools", where="tools", hint="put what the tools say into the messages"
        )
    readable = getattr(tokenizer, "response_template", None) or "<tool_call>" in template
    if request.tools and not readable:
        raise RejectedRequestError(
            "the form of this model's tool calls is unknown",
            where="tools",
            hint="use a model whose tokenizer has a response template, or whose calls are in <tool_call>",
        )


def _message(message: Message) -> dict[str, Any]:
    """Return a message in the form that templates expect: content is a text, and arguments are objects, not JSON."""
    made = {**message, "content": message.get("content") or ""}
    if message.get("tool_calls"):
        made["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return made


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = _json(function.get("arguments"))
    if isinstance(arguments, dict):
        function["arguments"] = arguments
    return {**call, "function": function}


def _function(call: Any) -> tuple[str, Any]:
    """Return name and arguments; an empty name if the value is not a call."""
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        return "", None
    return call["name"], call.get("arguments", {})


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)

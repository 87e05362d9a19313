"""First contact with a model's server: one real reply, and where they are needed one choice and one tool call.

A list of models, which `Policy.probe` reads, shows neither a wrong model nor a wrong key behind a proxy, nor a missing
parser of tool calls. A few tokens before a run do. The contact also learns the server's dialect.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sia_core.domain.errors import PolicyError, SiaError
from sia_core.domain.rollout import Sampling
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.protocol import Completion, EndpointError, Policy, RejectedRequestError, Request
from sia_core.policy.registry import load_policy
from sia_core.policy.retry import Retry
from sia_core.policy.spec import parse_spec

KINDS: Final = ("openai", "anthropic")
"""Kinds of servers that are contacted; vLLM's own client has a probe of its own."""
MARK: Final = "Connection test."
"""Beginning of each request."""
_TOKENS: Final = 32
_CALL_TOKENS: Final = (256, 4096, 4096)
"""Token limits of the attempts at a tool call: a model may think before it calls."""
_QUICK: Final = Retry(attempts=3, first_s=1.0, timeout_s=120.0, total_s=240.0)
TOOL: Final = {
    "type": "function",
    "function": {
        "name": "report_colour",
        "description": "Report a colour.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"type": "string", "description": "name of the colour"}},
            "required": ["colour"],
        },
    },
}
OPTIONS: Final = ("red", "seven")
_NO_TOOLS: Final = re.compile(
    r"tool-call-parser|enable-auto-tool-choice|--jinja|tool.{0,60}n(o|')t (be )?(support|allow|permit|use)|"
    r"n(o|')t support.{0,60}(tool|function)|(unsupported|unknown|unrecogni[sz]ed|unexpected).{0,40}\btools?\b",
    re.IGNORECASE,
)
_PARSER: Final = (
    "start the server with a parser of tool calls (vLLM: --enable-auto-tool-choice --tool-call-parser NAME, "
    "llama-server: --jinja), or name a model that calls tools"
)


@dataclass(frozen=True)
class Contact:
    """Result of a contact."""

    spec: str
    asked: tuple[str, ...] = ()
    """Checks that were passed: `reply`, `choice`, `tool call`."""
    dialect: Dialect = field(default_factory=Dialect)
    requests: int = 0
    """Replies that were received."""
    prompt_tokens: int = 0
    output_tokens: int = 0

    def after(self, asked: str, done: Completion, dialect: Dialect) -> "Contact":
        """Return the contact after one more reply."""
        return replace(
            self,
            asked=(*self.asked, asked),
            dialect=dialect,
            requests=self.requests + 1,
            prompt_tokens=self.prompt_tokens + done.prompt_tokens,
            output_tokens=self.output_tokens + done.output_tokens,
        )


def is_contacted(spec: str) -> bool:
    """Return True for a model behind a server that answers nothing until it is asked."""
    server = parse_spec(spec)
    return server is not None and server.kind in KINDS


def make_contact(
    spec: str,
    *,
    temperature: float = 1.0,
    choice: bool = False,
    silence_s: float | None = None,
    learner: Learner | None = None,
    retry: Retry = _QUICK,
) -> Contact:
    """Ask for one short reply, and for a choice or a tool call if needed.

    Args:
        spec: policy or agent behind openai: or anthropic:.
        temperature: temperature of the run's requests.
        choice: True if the run chooses among options.
        silence_s: for an agent, seconds that its server may send nothing; an agent has to call a tool.
        learner: receives what is learnt of the server.

    Raises:
        PolicyError: the server refuses, with its own words, or the model makes no choice or no tool call.
        EndpointError: no answer.
    """
    learner = learner or Learner()
    if silence_s is not None:
        retry = replace(retry, repeats=1, timeout_s=min(silence_s, retry.timeout_s))
    policy = load_policy(spec, retry=retry, learner=learner)
    contact = Contact(spec)
    try:
        done = policy.sample(_request("Reply with one word: ready", temperature))
        contact = contact.after("reply", done, learner.dialect)
        if choice:
            done = policy.sample(replace(_request("Which one is a colour?", temperature), options=OPTIONS))
            contact = contact.after("choice", done, learner.dialect)
    except RejectedRequestError as error:
        raise _explained(error, spec) from None
    except EndpointError as error:
        if contact.asked and "options" in error.what:
            raise PolicyError(f"cannot choose: {error.what}", where=spec, hint=error.hint) from None
        raise
    return contact if silence_s is None else _call_tool(policy, contact, learner, temperature)


def _call_tool(policy: Policy, contact: Contact, learner: Learner, temperature: float) -> Contact:
    text = "Call the tool report_colour with the colour blue. Do not answer in text."
    for attempt, limit in enumerate(_CALL_TOKENS):
        request = replace(_request(text, temperature, limit), tools=(TOOL,), seed=attempt)
        try:
            done = policy.sample(request)
        except SiaError as error:
            if isinstance(error, RejectedRequestError) or _NO_TOOLS.search(error.what):
                raise _explained(error, contact.spec) from None
            raise
        if done.tool_calls:
            return contact.after("tool call", done, learner.dialect)
        contact = replace(contact.after("", done, learner.dialect), asked=contact.asked)
    said = " ".join(done.text.split())[:120]
    what = f"the model called no tool in {len(_CALL_TOKENS)} replies, so it cannot work as an agent; the last: {said!r}"
    raise PolicyError(what, where=contact.spec, hint=_PARSER)


def _request(text: str, temperature: float, limit: int = _TOKENS) -> Request:
    messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": f"{MARK} {text}"},)
    return Request(messages, Sampling(temperature, limit), 0)


def _explained(error: SiaError, spec: str) -> PolicyError:
    hint = _PARSER if _NO_TOOLS.search(error.what) else "check the model's name, the key and the address of the server"
    return PolicyError(f"the server refused a first short request: {error.what}", where=spec, hint=hint)

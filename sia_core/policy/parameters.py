"""Fit requests to the parameters that a server takes: refused ones are left out or renamed, once for the process.

Servers refuse a parameter in many words, with status 400 or 422. A refusal is recognized by the server's field `param`,
or by the parameter's name beside a complaint. Names of other parameters in the same text, such as a list of the
accepted ones, do not count. One refusal changes one parameter, and a parameter that was not sent changes nothing, so
the number of requests is bounded.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from sia_core.policy.dialect import Learner

T = TypeVar("T")
Complaint = Callable[[Exception], tuple[str, str]]
"""Reads a refusal (400 or 422): the server's field `param`, and its text without quotations of the caller. Both are
empty for any other error."""

LIMITS: Final = ("max_tokens", "max_completion_tokens")
_OPTIONAL: Final = ("seed", "temperature", "cache_control")
_NAME: Final = rf"(?<![\w-])(?P<name>{'|'.join((*_OPTIONAL, *reversed(LIMITS)))})(?![\w-])"
_COMPLAINT: Final = (
    r"(?:unsupported|unrecogni[sz]ed|unknown|unexpected|extraneous|deprecated|unavailable|cannot find field|"
    r"(?:not|n't|no longer|cannot be)\s+(?:be\s+)?(?:support|permit|allow|accept|available|recogni[sz]|used|set)\w*)"
)
_PATTERNS: Final = (
    re.compile(rf"{_COMPLAINT}(?:[^.;,]|, field){{0,80}}?{_NAME}", re.IGNORECASE),
    re.compile(rf"{_NAME}[^.;]{{0,80}}?{_COMPLAINT}", re.IGNORECASE),
)
TOO_LONG: Final = re.compile(r"context.?(length|window|size)|prompt is too long|too many tokens", re.IGNORECASE)


def refused(param: str, text: str) -> str | None:
    """Return the parameter that a server's message refuses; None if the message refuses none.

    Args:
        param: field `param` of the error; empty if there is none.
        text: message of the error.
    """
    if TOO_LONG.search(text):
        return None
    first = param.partition(".")[0]
    if first in (*_OPTIONAL, *LIMITS) and re.search(_COMPLAINT, text, re.IGNORECASE):
        return first
    found = [match for pattern in _PATTERNS if (match := pattern.search(text))]
    return min(found, key=lambda match: match.start())["name"].lower() if found else None


class Parameters:
    """Parameters of the requests to one server. Thread-safe."""

    def __init__(self, learner: Learner, limit: str) -> None:
        """Send the token limit as `limit` until the server asks for the other name."""
        self._learner, self._usual = learner, limit

    def ask(self, body: Mapping[str, Any], send: Callable[[dict[str, Any]], T], complaint: Complaint) -> T:
        """Send a request, again after each parameter that the server refuses.

        Args:
            body: whole request of the SDK, with the token limit as `max_tokens`.
            send: makes one attempt. Its errors are raised, unless they refuse a parameter that was sent.
            complaint: reads an error of this request.
        """
        tried: set[str] = set()
        while True:
            fitted = self.fit(body)
            try:
                return send(fitted)
            except Exception as error:
                name = refused(*complaint(error))
                if name is None or name in tried or not _sent(fitted, name) or not self._change(name):
                    raise
                tried.add(name)

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request without the parameters that the server refuses."""
        dialect = self._learner.dialect
        left_out = dialect.left_out
        fitted = {name: value for name, value in body.items() if name not in left_out and name != LIMITS[0]}
        fitted[dialect.limit or self._usual] = body[LIMITS[0]]
        if "extra_body" in body:
            fitted["extra_body"] = {name: one for name, one in body["extra_body"].items() if name not in left_out}
        return _uncached(fitted) if "cache_control" in left_out else fitted

    def _change(self, name: str) -> bool:
        if name not in LIMITS:
            self._learner.leave_out(name)
            return True
        other = LIMITS[name == LIMITS[0]]
        if self._usual == other:  # The server refused the other name too: a request without a limit is not sent.
            return False
        self._learner.learn(limit=other)
        return True


def _sent(body: Mapping[str, Any], name: str) -> bool:
    return name in body or name in body.get("extra_body", ()) or (name == "cache_control" and _uncached(body) != body)


def _uncached(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request without the marks of a provider's cache, which stand on blocks of texts."""
    made = dict(body)
    if isinstance(made.get("system"), list):
        made["system"] = [_unmarked(block) for block in made["system"]]
    made["messages"] = [
        {**message, "content": [_unmarked(block) for block in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in made["messages"]
    ]
    return made


def _unmarked(block: Any) -> Any:
    return {key: one for key, one in block.items() if key != "cache_control"} if isinstance(block, dict) else block

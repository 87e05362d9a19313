"""Classify failed requests: the fault is the endpoint's (may pass), the asker's, or the policy's (the run must stop).

Works on the exceptions of the SDKs of OpenAI and Anthropic, which are generated alike: `status_code`,
`response` and `body` where the server answered, none of them where it did not.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sia_core.domain.errors import PolicyError, SiaError
from sia_core.policy.protocol import EndpointError, RejectedRequestError
from sia_core.policy.retry import Fault, parse_retry_after
from sia_core.policy.spec import NO_KEY, ServerSpec

_WIRE = ("openai", "anthropic", "httpx", "httpx2")
"""Libraries whose exceptions come of talking to a server."""
_PASSING = (408, 409, 425, 429)
_OURS = ("temperature", "seed", "max_tokens", "max_completion_tokens", "response_format", "json_schema", "tool_choice")
"""Parameters that the run sets or that stand for `options`: an asker can do nothing about them."""
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|not permitted|not allowed|deprecated", re.IGNORECASE
)
_TOO_LONG = re.compile(r"context.?(length|window)|prompt is too long|too many tokens", re.IGNORECASE)
_SHORTEST = 4
"""Letters of what is taken for a quotation: an option may be a single one, and is in every text."""
_NO_MONEY = re.compile(r"insufficient_quota|credit balance|billing", re.IGNORECASE)


class GarbledError(Exception):
    """An answer with status 200 that is none."""


class BrokenOffError(GarbledError):
    """A stream of events that failed after a part of the reply had come."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the stream broke off: {type(error).__name__}: {error}")
        self.error = error


class UnknownModelError(PolicyError):
    """The server does not know the model, or the address is none of its."""


@dataclass(frozen=True)
class Judge:
    """Judges the faults of one policy's requests."""

    spec: ServerSpec
    key: str

    def __repr__(self) -> str:
        return f"Judge({self.spec.spec!r})"

    def __call__(self, error: Exception, asked: Sequence[str] = ()) -> Fault | None:
        """Return the fault that the error stands for; None for an error that no server caused.

        Args:
            error: of an SDK.
            asked: the asker's own words. A server that quotes them says nothing about the policy by it, or a harness
                could end a run by the name of a tool.
        """
        if isinstance(error, BrokenOffError):
            return self._passing(f"the stream broke off: {self.describe(error.error)}")
        if isinstance(error, GarbledError):
            return self._passing(self.redact(str(error)))
        if type(error).__module__.partition(".")[0] not in _WIRE:
            return None
        status, text = getattr(error, "status_code", None), self.describe(error)
        said = _without(self._words(error), asked)
        if status is None or status == 200:
            return self._passing(text)
        if status == 402 or (status in (400, 429) and _NO_MONEY.search(said)):
            hint = f"pay, or use another key in {self.spec.variable}"
            return Fault(PolicyError(f"the account cannot pay: {text}", where=self.spec.spec, hint=hint))
        if status in _PASSING or status >= 500:
            headers: Any = getattr(getattr(error, "response", None), "headers", {})
            return self._passing(f"{status}: {text}", parse_retry_after(headers.get("retry-after"), time.time()))
        return Fault(self._final(status, text, said))

    def describe(self, error: Exception) -> str:
        """The server's own words where there are any, without the key; the first 300 characters."""
        return self._words(error)[:300]

    def _words(self, error: Exception) -> str:
        body = getattr(error, "body", None)
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            body = body["error"]  # Anthropic's has one more layer.
        if isinstance(body, dict):
            parts = [body.get("code"), body.get("type"), body.get("param"), body.get("message")]
            text = ": ".join(str(part) for part in parts if part)
        else:
            text = str(body) if body else f"{error} {error.__cause__ or ''}"
        return self.redact(" ".join(text.split()))

    def redact(self, text: str) -> str:
        """The text without the key."""
        return text if self.key == NO_KEY else text.replace(self.key, "[key]")

    def _passing(self, text: str, after_s: float | None = None) -> Fault:
        hint = f"see whether {self.spec.base_url} is up, then: sia resume"
        return Fault(EndpointError(f"no answer: {text}", where=self.spec.spec, hint=hint), True, after_s)

    def _final(self, status: int, text: str, said: str) -> SiaError:
        """Return the error for a status that the asker or the policy caused, judged by `said`, which quotes nobody."""
        where, variable = self.spec.spec, self.spec.variable
        if status == 401:
            # Servers quote the key they refuse, whole or in part: their words are left out.
            hint = f"export {variable}=... with a key for {self.spec.base_url}"
            return PolicyError(f"the key in {variable} was refused (401)", where=where, hint=hint)
        if status == 403:
            hint = f"see what the key in {variable} may use"
            return PolicyError(f"access was refused (403): {text}", where=where, hint=hint)
        if status == 404 or "model_not_found" in said:
            hint = "check the model's name, and the address after @ (it mostly ends in /v1)"
            what = f"no model {self.spec.model!r} at {self.spec.base_url} ({status}): {text}"
            return UnknownModelError(what, where=where, hint=hint)
        if status not in (400, 413, 422):
            what = f"not the API that was expected ({status}): {text}"
            return PolicyError(what, where=where, hint="check the address after @ (it mostly ends in /v1)")
        named = next((name for name in _OURS if re.search(rf"\b{name}\b", said)), None)
        if named and _UNSUPPORTED.search(said) and not _TOO_LONG.search(said):
            return PolicyError(f"the model does not take {named}: {text}", where=where, hint=_advice(named))
        return RejectedRequestError(f"refused ({status}): {text}", where=where)


def _without(text: str, asked: Sequence[str]) -> str:
    words_asked = {" ".join(one.split()) for one in asked}
    for words in sorted((one for one in words_asked if len(one) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(words, " ")
    return text


def _advice(parameter: str) -> str:
    if parameter == "temperature":
        return "sample at temperature 1, which is not sent to the provider's own server; or use another model"
    if parameter in ("response_format", "json_schema", "tool_choice"):
        return "use a model with structured outputs, or a harness that does not choose among options"
    return "use another model"

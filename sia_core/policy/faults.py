"""Classify failed requests: fault of the endpoint (may pass), of the caller, or of the policy (the run must stop).

The exceptions of the SDKs of OpenAI and Anthropic have the same form: `status_code`, `response` and `body` if the
server answered, else none of them.
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
from sia_core.policy.window import Limits, TooLongError, read_limits

_WIRE = ("openai", "anthropic", "httpx", "httpx2")
"""Libraries whose exceptions come from requests to a server."""
_FINAL = (400, 413, 422)
"""Statuses of a request that is refused for what it says."""
_PASSING = (408, 409, 425, 429)
_OURS = ("temperature", "seed", "max_tokens", "max_completion_tokens", "response_format", "json_schema", "tool_choice")
"""Parameters that the run sets, or that implement `options`: a caller cannot change them."""
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|not permitted|not allowed|deprecated", re.IGNORECASE
)
_TOO_LONG = re.compile(r"context.?(length|window|size)|prompt is too long|too many tokens", re.IGNORECASE)
_SHORTEST = 4
"""Minimum letters of a quotation: an option may be a single letter, which is in every text."""
_NO_MONEY = re.compile(r"insufficient_quota|credit balance|billing", re.IGNORECASE)


class GarbledError(Exception):
    """An invalid answer with status 200."""


class BrokenOffError(GarbledError):
    """A stream of events that failed after a part of the reply."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the stream broke off: {type(error).__name__}: {error}")
        self.error = error


class UnknownModelError(PolicyError):
    """The server does not know the model or the address."""


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
            error: exception of an SDK.
            asked: texts of the caller. A quotation of them in the answer does not count against the policy, or a
                harness could end a run by the name of a tool.
        """
        if isinstance(error, BrokenOffError):
            return self._passing(f"the stream broke off: {self.describe(error.error)}")
        if isinstance(error, GarbledError):
            return self._passing(self.redact(str(error)))
        if type(error).__module__.partition(".")[0] not in _WIRE:
            return None
        status, text = getattr(error, "status_code", None), self.describe(error)
        said = _without(self._words(error), asked)
        if status not in (401, 403, 404, 429):
            # Some servers answer with 500, or with an error in place of the reply, where trying again cannot help.
            words = self._words(error) if status in _FINAL else said
            if (told := read_limits(words, getattr(error, "body", None))) is not None:
                return Fault(self._too_long(status, text, told))
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
        """Return the first 300 characters of the server's message, or else of the error, without the key."""
        return self._words(error)[:300]

    def _words(self, error: Exception) -> str:
        body = getattr(error, "body", None)
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            body = body["error"]  # Anthropic's body has one more layer.
        if isinstance(body, dict):
            parts = [body.get("code"), body.get("type"), body.get("param"), body.get("message")]
            text = ": ".join(str(part) for part in parts if part)
        else:
            text = str(body) if body else f"{error} {error.__cause__ or ''}"
        return self.redact(" ".join(text.split()))

    def redact(self, text: str) -> str:
        """Replace the key in a text."""
        return text if self.key == NO_KEY else text.replace(self.key, "[key]")

    def _passing(self, text: str, after_s: float | None = None) -> Fault:
        hint = f"check that {self.spec.base_url} is up"
        return Fault(EndpointError(f"no answer: {text}", where=self.spec.spec, hint=hint), True, after_s)

    def _too_long(self, status: int | None, text: str, told: Limits) -> SiaError:
        what = f"refused ({status}): {text}" if status else f"refused: {text}"
        return TooLongError(what, where=self.spec.spec, limits=told)

    def _final(self, status: int, text: str, said: str) -> SiaError:
        """Return the error for a status that the caller or the policy caused, judged by `said`, without quotations."""
        where, variable = self.spec.spec, self.spec.variable
        if status == 401:
            # Servers quote the refused key, whole or in part: the message leaves their text out.
            hint = f"export {variable}=... with a key for {self.spec.base_url}"
            return PolicyError(f"the key in {variable} was refused (401)", where=where, hint=hint)
        if status == 403:
            hint = f"check the permissions of the key in {variable}"
            return PolicyError(f"access was refused (403): {text}", where=where, hint=hint)
        if status == 404 or "model_not_found" in said:
            hint = "check the model's name, and the address after @ (it mostly ends in /v1)"
            what = f"no model {self.spec.model!r} at {self.spec.base_url} ({status}): {text}"
            return UnknownModelError(what, where=where, hint=hint)
        if status not in _FINAL:
            what = f"not the API that was expected ({status}): {text}"
            return PolicyError(what, where=where, hint="check the address after @ (it mostly ends in /v1)")
        named = next((name for name in _OURS if re.search(rf"\b{name}\b", said)), None)
        if named and _UNSUPPORTED.search(said) and not _TOO_LONG.search(said):
            return PolicyError(f"the model does not take {named}: {text}", where=where, hint=_advice(named))
        if _TOO_LONG.search(text):
            return self._too_long(status, text, Limits())
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

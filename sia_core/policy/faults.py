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
from sia_core.policy.parameters import TOO_LONG
from sia_core.policy.protocol import EndpointError, RejectedRequestError
from sia_core.policy.retry import Fault, parse_retry_after
from sia_core.policy.spec import NO_KEY, ServerSpec
from sia_core.policy.window import Limits, TooLongError, read_limits

_WIRE = ("openai", "anthropic", "httpx", "httpx2")
"""Libraries whose exceptions come from requests to a server."""
_FINAL = (400, 413, 422)
"""Statuses of a request that is refused for what it says."""
_PASSING = (408, 409, 425, 429)
_OURS = ("temperature", "seed", "max_tokens", "max_completion_tokens", "tool_choice")
"""Parameters that the run sets: a caller cannot change them."""
_ADVICE_SCHEMA = "use a model with structured outputs, or a harness that does not choose among options"
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|not permitted|not allowed|deprecated", re.IGNORECASE
)
_SHORT_KEY = 8
"""Length from which a key is replaced wherever it stands."""
_SCHEMA = re.compile(
    r"response_?format|json_schema|output_config|output_format|structured.?outputs?|guided_|json_validate_failed",
    re.IGNORECASE,
)
"""Names of the means by which a reply is bound to a schema."""
_NO_MODEL = re.compile(
    r"model_not_found|invalid model name|unknown model|no such model|"
    r"model.{0,80}(does not exist|not found|is not a valid)",
    re.IGNORECASE,
)
_NO_KEY = re.compile(
    r"invalid.{0,20}api.?key|incorrect api.?key|api.?key.{0,20}(invalid|not valid)|authentication.?error|"
    r"invalid proxy server token|no connected db",
    re.IGNORECASE,
)
"""Texts with which proxies pass on a refused key, or refuse it themselves, with status 400."""
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


class NoSchemaError(PolicyError):
    """The server does not bind a reply to a schema."""


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

    def complaint(self, error: Exception, asked: Sequence[str] = ()) -> tuple[str, str]:
        """Read a refusal as `parameters.Complaint` says; both texts are empty for any other error."""
        if getattr(error, "status_code", None) not in (400, 422):
            return "", ""
        body = _error_of(getattr(error, "body", None))
        param = body.get("param") if isinstance(body, dict) else None
        return str(param or ""), _without(self._words(error), asked)

    def _words(self, error: Exception) -> str:
        body = _error_of(getattr(error, "body", None))
        text = ""
        if isinstance(body, dict):
            parts = [body.get("code"), body.get("type"), body.get("param"), body.get("message")]
            text = ": ".join(str(part) for part in parts if part) if body.get("message") else ""
        text = text or (str(body) if body else f"{error} {error.__cause__ or ''}")
        return self.redact(" ".join(text.split()))

    def redact(self, text: str) -> str:
        """Replace the key in a text: a short one only as the value of a header, because it may be part of any word."""
        if self.key == NO_KEY or not self.key:
            return text
        if len(self.key) >= _SHORT_KEY:
            return text.replace(self.key, "[key]")
        quoted = re.compile(rf"(?i)((?:bearer|api.?key|authorization)[\s:='\"]+){re.escape(self.key)}(?![\w-])")
        return quoted.sub(r"\g<1>[key]", text)

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
        if status == 400 and _NO_KEY.search(said):
            hint = f"export {variable}=... with a key for {self.spec.base_url}"
            return PolicyError(f"the key in {variable} was refused (400)", where=where, hint=hint)
        if status == 404 or _NO_MODEL.search(said):
            hint = f"check the model's name; {_address(self.spec)}"
            what = f"no model {self.spec.model!r} at {self.spec.base_url} ({status}): {text}"
            return UnknownModelError(what, where=where, hint=hint)
        if status not in _FINAL:
            what = f"not the API that was expected ({status}): {text}"
            return PolicyError(what, where=where, hint=_address(self.spec))
        if TOO_LONG.search(said):
            return self._too_long(status, text, Limits())
        if schema := _SCHEMA.search(said):
            return NoSchemaError(f"the model does not take {schema[0]}: {text}", where=where, hint=_ADVICE_SCHEMA)
        named = next((name for name in _OURS if re.search(rf"\b{name}\b", said)), None)
        if named and _UNSUPPORTED.search(said):
            return PolicyError(f"the model does not take {named}: {text}", where=where, hint=_advice(named))
        if TOO_LONG.search(text):  # The request may hold the same word, which `said` then lacks.
            return self._too_long(status, text, Limits())
        return RejectedRequestError(f"refused ({status}): {text}", where=where)


def _address(spec: ServerSpec) -> str:
    """Say how the address should end: OpenAI's clients add a path to /v1, Anthropic's add /v1 themselves."""
    if spec.official or not spec.base_url:
        return f"check the address after @: it is {spec.base_url or 'none'}"
    ends = spec.base_url.endswith("/v1")
    wants = spec.kind != "anthropic"
    if ends == wants:
        return "check the address after @"
    fixed = f"{spec.base_url}/v1" if wants else spec.base_url.removesuffix("/v1")
    why = "mostly ends in /v1" if wants else "has no /v1 at its end, which the client adds"
    return f"check the address after @, which {why}: {spec.kind}:{spec.model}@{fixed}"


def _without(text: str, asked: Sequence[str]) -> str:
    words_asked = {" ".join(one.split()) for one in asked}
    for words in sorted((one for one in words_asked if len(one) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(words, " ")
    return text


def _error_of(body: Any) -> Any:
    """Return the part of an error's body that describes the error: some servers nest it, some send a list."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return body["error"]
    return body


def _advice(parameter: str) -> str:
    if parameter == "temperature":
        return "sample at temperature 1, which is not sent to the provider's own server; or use another model"
    return "use another model"

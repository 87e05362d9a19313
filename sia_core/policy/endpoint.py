"""Asking a model over HTTP: one retry loop for every provider, and whose fault an error is.

The clients of OpenAI and Anthropic are made alike: an error has `status_code` when the server
answered, none when it did not. Retried, with full jitter and the server's Retry-After: no
connection, 408, 409, 429, 5xx, and answers that are cut short or make no sense.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sia_core.errors import PolicyError
from sia_core.policy.protocol import Completion, EndpointError, RejectedRequestError

T = TypeVar("T")
_PASSING = (408, 409, 429)
_OURS = ("temperature", "max_tokens", "max_completion_tokens", "seed", "model", "response_format", "top_p")
"""Parameters that the run sets: an error about one of them is not the harness's."""


class GarbageError(Exception):
    """A 200 whose body is not an answer."""


@dataclass(frozen=True)
class Retries:
    """How patient one request is."""

    attempts: int = 6
    base_s: float = 0.5
    cap_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    rng: random.Random = field(default_factory=random.Random)

    def pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else exponential with full jitter."""
        if asked is not None:
            return min(max(asked, 0.0), self.cap_s)
        return self.rng.uniform(0.0, min(self.base_s * 2**attempt, self.cap_s))


@dataclass(frozen=True)
class Endpoint:
    """Where a policy's requests go."""

    spec: str
    variable: str
    """Environment variable that holds the key."""
    key: str = field(repr=False)
    retries: Retries = Retries()

    def ask(self, send: Callable[[], T]) -> T:
        """The answer of `send`, which makes one request with one of the clients.

        Raises:
            EndpointError: no answer after all attempts.
            RejectedRequestError: the server will not answer this request.
            PolicyError: the server refuses key, model or parameters.
        """
        for attempt in range(self.retries.attempts):
            try:
                return send()
            except Exception as error:  # noqa: BLE001  (sorted out by _refuse)
                self._refuse(error)
                last = error
            if attempt + 1 < self.retries.attempts:
                self.retries.sleep(self.retries.pause(attempt, _retry_after(last)))
        what = f"no answer after {self.retries.attempts} attempts: {self._text(last)}"
        raise EndpointError(what, where=self.spec, hint="see that the endpoint is up") from None

    def _refuse(self, error: Exception) -> None:
        """Raise what no further attempt can mend."""
        status = getattr(error, "status_code", None)
        text = self._text(error)
        if status in (401, 403):
            hint = f"set {self.variable} to a key that may use this model"
            raise PolicyError(f"the key is refused: {text}", where=self.spec, hint=hint) from None
        if status == 404:
            hint = "check the model's name, and the address after @"
            raise PolicyError(f"no such model or address: {text}", where=self.spec, hint=hint) from None
        if status == 402 or getattr(error, "code", None) == "insufficient_quota":
            raise PolicyError(f"the account has no quota left: {text}", where=self.spec) from None
        if status is None or status in _PASSING or status >= 500:
            if isinstance(error, (PolicyError, RejectedRequestError)) or not _is_wire(error):
                raise error
            return
        if getattr(error, "param", None) in _OURS or "temperature" in text:
            hint = "change [sampling] in task.toml, or use another model"
            raise PolicyError(f"the model refuses a parameter: {text}", where=self.spec, hint=hint) from None
        raise RejectedRequestError(text, where=self.spec) from None

    def _text(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"[:500]
        return text.replace(self.key, "***") if self.key else text


def _is_wire(error: Exception) -> bool:
    """Whether the error came of talking to the server, and not of a defect here."""
    module = type(error).__module__.split(".")[0]
    return module in ("openai", "anthropic", "httpx", "httpx2") or isinstance(error, (GarbageError, ValueError))


def _retry_after(error: Exception) -> float | None:
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    try:
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return None


def pick_option(options: tuple[str, ...], sample: Callable[[int], Completion], where: str) -> Completion:
    """A reply that is one of `options`: asked for up to three times, for a schema binds most servers, not all.

    Raises:
        RejectedRequestError: it never was.
    """
    for attempt in range(3):
        completion = sample(attempt)
        if completion.text in options:
            return completion
    what = f"the model replied {completion.text[:80]!r} three times, which is none of the {len(options)} options"
    raise RejectedRequestError(what, where=where)

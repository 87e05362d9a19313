"""Requests to a model server through its SDK, with checked answers, classified faults and bounded attempts."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sia_core.domain.errors import PolicyError
from sia_core.domain.json_data import whole_texts
from sia_core.policy.faults import GarbledError, Judge
from sia_core.policy.paid import careful
from sia_core.policy.parameters import Complaint
from sia_core.policy.protocol import Request
from sia_core.policy.retry import Fault, Retry
from sia_core.policy.spec import ServerSpec

T = TypeVar("T")
A = TypeVar("A", bound="Answer")

Send = Callable[[float], bytes]
"""Makes one attempt with an SDK, within a number of seconds, and returns the answer's bytes, because an SDK's own
parser accepts broken answers silently."""
Opinion = Callable[[Fault], Fault]


class Answer(BaseModel):
    """Part of an answer that is read; other fields may differ between servers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Anything(Answer):
    """Any JSON answer, which shows that the API exists."""


def refuse_adapter(request: Request, where: str) -> None:
    """Refuse a request with an adapter to a model that returns only text."""
    if request.adapter is not None:
        raise PolicyError("takes no adapter", where=where, hint="use a policy that can be trained")


class Server:
    """One policy's connection to its server. Thread-safe."""

    def __init__(self, spec: ServerSpec, key: str, retry: Retry) -> None:
        self._spec = spec
        self._judge = Judge(spec, key)
        self._retry = retry

    def ask(self, send: Send, shape: type[A], opinion: Opinion | None = None, request: Request | None = None) -> A:
        """Return the answer, parsed to its expected shape.

        Args:
            request: the caller's request; quotations of its texts in an error do not count against the policy.
            opinion: function that may reclassify a fault whose status has an unusual meaning.

        Raises:
            EndpointError: no answer, after bounded retries; where `Retry` limits repeats, as `paid` says.
            RejectedRequestError: this request is refused.
            PolicyError: key, model or a parameter of ours is refused.
        """
        return self._run(lambda timeout: self._read(send(timeout), shape), opinion, request)

    def tell(self, send: Send, opinion: Opinion | None = None) -> str:
        """Return the answer as text. Raises as `ask` does."""
        return self._run(lambda timeout: send(timeout).decode(errors="replace"), opinion)

    def complaint(self, request: Request) -> Complaint:
        """Return a reader of the server's refusals of this request."""
        return lambda error: self._judge.complaint(error, request.words)

    def _run(self, call: Callable[[float], T], opinion: Opinion | None, request: Request | None = None) -> T:
        retry = self._retry

        def judge(error: Exception) -> Fault | None:
            fault = self._judge(error, request.words if request else ())
            if fault is not None and retry.careful:
                fault = careful(fault, error, self._spec, retry.timeout_s)
            return fault if fault is None or opinion is None else opinion(fault)

        return retry.request(call, judge)

    def _read(self, content: bytes, shape: type[A]) -> A:
        try:
            return shape.model_validate_json(content)
        except ValidationError as error:
            if b"\\ud" in content.lower():
                with suppress(ValueError, RecursionError):
                    return shape.model_validate(whole_texts(json.loads(content)))
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "body"
            start = self._judge.redact(content[:80].decode(errors="replace"))
            raise GarbledError(f"a broken answer, {place}: {first['msg']}; it begins {start!r}") from None

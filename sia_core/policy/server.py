"""A model server, asked through its SDK: answers are checked, faults judged, attempts bounded."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sia_core.domain.errors import PolicyError
from sia_core.policy.faults import GarbledError, Judge
from sia_core.policy.paid import careful
from sia_core.policy.protocol import Request
from sia_core.policy.retry import Fault, Retry
from sia_core.policy.spec import ServerSpec

T = TypeVar("T")
A = TypeVar("A", bound="Answer")

Send = Callable[[float], bytes]
"""Makes one attempt with an SDK, within about that many seconds. The bytes of its answer, for an SDK's
own parser takes a broken one without a word."""
Opinion = Callable[[Fault], Fault]


class Answer(BaseModel):
    """Part of an answer that is read. What else is there may change with the server."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Anything(Answer):
    """Whatever it is: that it is JSON shows that the API is there."""


def refuse_adapter(request: Request, where: str) -> None:
    """For a model of which nothing but text comes back."""
    if request.adapter is not None:
        raise PolicyError("takes no adapter", where=where, hint="use a policy that can be trained")


class Server:
    """One policy's connection to its server. Thread-safe."""

    def __init__(self, spec: ServerSpec, key: str, retry: Retry) -> None:
        self._spec = spec
        self._judge = Judge(spec, key)
        self._retry = retry

    def ask(self, send: Send, shape: type[A], opinion: Opinion | None = None, request: Request | None = None) -> A:
        """The answer, of the shape that was expected.

        Args:
            request: of the asker; what the server quotes of it is not held against the policy.
            opinion: a second one on each fault, where a status means something else than usual.

        Raises:
            EndpointError: no answer, after bounded retries; where `Retry` limits repeats, as `paid` says.
            RejectedRequestError: this request is refused.
            PolicyError: key, model or a parameter of ours is refused.
        """
        return self._run(lambda timeout: self._read(send(timeout), shape), opinion, request)

    def tell(self, send: Send, opinion: Opinion | None = None) -> str:
        """The answer as text. Raises as `ask` does."""
        return self._run(lambda timeout: send(timeout).decode(errors="replace"), opinion)

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
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "body"
            start = self._judge.redact(content[:80].decode(errors="replace"))
            raise GarbledError(f"a broken answer, {place}: {first['msg']}; it begins {start!r}") from None

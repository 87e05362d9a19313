"""Tell which failed requests may have been paid for, for askers that pay for long replies: the agents.

| the request | then |
|---|---|
| did not reach the server, was answered by a status that a retry may change (408, 409, 425, 429, 5xx), or by an \
error before the first part of the reply | nothing was paid: it is retried as any other |
| broke off after it was sent, was answered by what makes no sense, or a gateway gave up waiting (504, 524) | a reply \
may have been paid for: it is sent once more, whatever else goes wrong |
| was met by silence for the whole limit | a reply may have been paid for, and asking again would end alike: it is \
not sent again |

Faults that no retry mends (`faults`) are left as they are.
"""

from dataclasses import replace
from typing import Final, Literal

import httpx2

from sia_core.policy.faults import GarbledError
from sia_core.policy.protocol import EndpointError
from sia_core.policy.retry import Fault
from sia_core.policy.spec import ServerSpec

Stage = Literal["unsent", "broken", "silent"]

_UNSENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.WriteError,
    httpx2.WriteTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)
"""The request was not sent whole."""
_GATEWAY_GAVE_UP: Final = (504, 524)


def stage_of(error: Exception) -> Stage:
    """Return how far a request came before this error, of an SDK or of ours, ended it."""
    if isinstance(error, GarbledError):
        return "broken"
    status = getattr(error, "status_code", None)
    if status is not None:
        return "broken" if status in _GATEWAY_GAVE_UP else "unsent"
    cause = _transport(error)
    if isinstance(cause, httpx2.ReadTimeout):
        return "silent"
    # An SDK's error without a status or a cause is one that the server told in place of a reply.
    return "unsent" if cause is None or isinstance(cause, _UNSENT) else "broken"


def is_silence(error: Exception) -> bool:
    """Return True if the request failed because the server sent nothing within the limit of silence."""
    return isinstance(_transport(error), httpx2.ReadTimeout)


def careful(fault: Fault, error: Exception, spec: ServerSpec, silence_s: float) -> Fault:
    """The fault of a request that is not to be paid for again and again."""
    if not fault.again:
        return fault
    stage = stage_of(error)
    if stage == "unsent":
        return fault
    lost = "a reply may have been paid for and lost"
    if stage == "silent":
        what = f"no answer: the server sent nothing for {silence_s:g} s; {lost}, so it is not asked for again"
        longer = f"if the model is only slow: sia resume RUN --agent-timeout {max(1, round(2 * silence_s))}"
        hint = f"{longer}; if not, see whether {spec.base_url} is up"
        return Fault(EndpointError(what, where=spec.spec, hint=hint), paid=True)
    what = f"{fault.error.what}; {lost}, and is asked for twice at most"
    return replace(fault, error=EndpointError(what, where=spec.spec, hint=fault.error.hint), paid=True)


def _transport(error: BaseException) -> BaseException | None:
    """The first error of the connection among an SDK's error and its causes, or else the last cause."""
    cause: BaseException | None = error if isinstance(error, httpx2.TransportError) else error.__cause__
    while cause is not None and not isinstance(cause, httpx2.TransportError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause

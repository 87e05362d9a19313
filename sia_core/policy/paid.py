"""Limit retries of failed requests of agents that may have been paid for, as agents' replies are long.

| failure of the request | paid | retry |
|---|---|---|
| not sent, transient status (408, 409, 425, 429, 5xx), or error before the first part of the reply | no | as usual |
| broken off after sending, invalid answer, or a gateway's timeout (504, 524) | possibly | once, with any later error |
| silence for the whole limit | possibly | none, as the server would be silent again |

Permanent faults (`faults`) are left unchanged.
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
"""Errors before the request was sent in full."""
_GATEWAY_GAVE_UP: Final = (504, 524)


def stage_of(error: Exception) -> Stage:
    """Return the stage of a request at which this error ended it."""
    if isinstance(error, GarbledError):
        return "broken"
    status = getattr(error, "status_code", None)
    if status is not None:
        return "broken" if status in _GATEWAY_GAVE_UP else "unsent"
    cause = _transport(error)
    if isinstance(cause, httpx2.ReadTimeout):
        return "silent"
    # An SDK's error without a status or a cause is an error event that the server sent in place of a reply.
    return "unsent" if cause is None or isinstance(cause, _UNSENT) else "broken"


def is_silence(error: Exception) -> bool:
    """Return True if the request failed because the server sent nothing within the silence limit."""
    return isinstance(_transport(error), httpx2.ReadTimeout)


def careful(fault: Fault, error: Exception, spec: ServerSpec, silence_s: float) -> Fault:
    """Restrict the retries of a fault to those that are paid for twice at most."""
    if not fault.again:
        return fault
    stage = stage_of(error)
    if stage == "unsent":
        return fault
    lost = "a reply may have been paid for and lost"
    if stage == "silent":
        what = f"no answer: the server sent nothing for {silence_s:g} s; {lost}, so it is not requested again"
        longer = f"if the model is only slow: sia resume RUN --agent-timeout {max(1, round(2 * silence_s))}"
        hint = f"{longer}; if not, check that {spec.base_url} is up"
        return Fault(EndpointError(what, where=spec.spec, hint=hint), paid=True)
    what = f"{fault.error.what}; {lost}, and is requested twice at most"
    return replace(fault, error=EndpointError(what, where=spec.spec, hint=fault.error.hint), paid=True)


def _transport(error: BaseException) -> BaseException | None:
    """Find the first connection error among an SDK's error and its causes, or else the last cause."""
    cause: BaseException | None = error if isinstance(error, httpx2.TransportError) else error.__cause__
    while cause is not None and not isinstance(cause, httpx2.TransportError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause

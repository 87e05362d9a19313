"""Read the request lines of a harness, and shape the gateway's answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sia_core.domain.hashing import digest_json
from sia_core.engine.budget import RefusedError
from sia_core.engine.jsonl import parse

LINE_LIMIT = 1 << 20
STATUS = {"request": 400, "budget": 402, "endpoint": 503}
"""402 and 400 are not retried by the client libraries."""

Answer = tuple[int, Any]
"""Status and body."""


@dataclass(frozen=True)
class Line:
    """One request, as the harness wrote it."""

    id: Any
    path: str
    body: Any
    retry: bool

    @property
    def key(self) -> str:
        """Content address of the request: a retried one has the same."""
        return digest_json([self.path, self.body])


def read_line(data: bytes) -> Line:
    """Read a request.

    Raises:
        BadJsonError, RefusedError: the line is no JSON, or no request.
    """
    request = parse(data, limit=LINE_LIMIT)
    if not isinstance(request, dict) or not isinstance(request.get("path"), str) or "body" not in request:
        raise RefusedError("request", 'a request is {"id", "path", "body"}')
    number = request["id"] if isinstance(request.get("id"), int) else None
    return Line(number, request["path"], request["body"], request.get("retry") is True)


def reply(number: Any, answer: Answer, left: Mapping[str, int]) -> dict[str, Any]:
    """The line that answers a request, with what is left of the budget."""
    status, body = answer
    return {"id": number, "status": status, "body": body, "budget": left}


def refusal(kind: str, message: str) -> Answer:
    """The answer to a request that is refused or fails; `kind` is one of STATUS."""
    return STATUS[kind], {"error": {"type": kind, "message": message, "code": kind}}

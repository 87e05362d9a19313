"""Specs of models over HTTP: KIND:MODEL[@URL]."""

import os
from dataclasses import dataclass

from sia_core.errors import PolicyError, UsageError
from sia_core.hashing import digest_json

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""Kind -> environment variable that holds the key."""


@dataclass(frozen=True)
class HttpSpec:
    """A spec of the form KIND:MODEL[@URL]."""

    kind: str
    model: str
    url: str | None

    @property
    def digest(self) -> str:
        """Digest of the policy behind it."""
        return digest_json([f"{self.kind}/1", self.model, self.url])

    @property
    def key(self) -> str:
        """The key from the environment.

        Raises:
            PolicyError: there is none, and the provider's own endpoint wants one.
        """
        key = os.environ.get(KEYS[self.kind], "")
        if not key and self.url is None:
            hint = f"export {KEYS[self.kind]}=..."
            raise PolicyError(f"{KEYS[self.kind]} is not set", where=f"{self.kind}:{self.model}", hint=hint)
        return key or "none"


def parse_http(spec: str) -> HttpSpec | None:
    """The parts of KIND:MODEL[@URL], None for any other spec.

    Raises:
        UsageError: no model, or an address that is not http.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in KEYS or not colon:
        return None
    model, at, url = rest.partition("@http")
    if not model or "@" in model:
        what = f"{spec!r} is not {kind}:MODEL or {kind}:MODEL@URL, with a URL that begins with http"
        raise UsageError(what, where="--policy", hint=f"for example {kind}:NAME@http://127.0.0.1:8000/v1")
    return HttpSpec(kind, model, f"http{url}" if at else None)

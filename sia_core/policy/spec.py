"""Specs of policies behind a server, KIND:MODEL[@BASE_URL][#VARIABLE], and their keys.

`#VARIABLE` names the environment variable of the key, if not the provider's usual one. The key is read when a policy
is loaded, and is never part of a spec, a digest or a message. `vllm:DIR` without an address is a server that the run
starts itself, with its own key. Nothing heavy is imported here.
"""

import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sia_core.domain.errors import PolicyError, UsageError
from sia_core.domain.hashing import digest_json
from sia_core.policy.base import base_digest

CONCURRENCY_VARIABLE: Final = "SIA_POLICY_CONCURRENCY"
PROGRAM_VARIABLE: Final = "SIA_VLLM"
NO_KEY: Final = "none"
"""Placeholder sent to servers that need no key."""

_FORM = re.compile(r"(?P<model>[^#\s@][^#\s]*?)(?:@(?P<url>https?://[^#\s]+))?(?:#(?P<variable>[A-Za-z_]\w*))?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Provider:
    """Defaults of a kind of server."""

    package: str
    """Name of the SDK that sends requests to the server."""
    base_url: str
    variable: str
    concurrency: int
    needs_key: bool = True


PROVIDERS: Final = {
    "openai": Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", 16),
    "anthropic": Provider("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", 16),
    "vllm": Provider("openai", "", "VLLM_API_KEY", 64, needs_key=False),
}


@dataclass(frozen=True)
class ServerSpec:
    """A parsed spec. Holds the name of the key's variable, never the key."""

    spec: str
    kind: str
    model: str
    base_url: str
    """Empty for a server that the run starts."""
    variable: str

    @property
    def own(self) -> bool:
        """True if the run starts this server itself."""
        return not self.base_url

    @property
    def official(self) -> bool:
        """True if this is the provider's own server."""
        return self.base_url == PROVIDERS[self.kind].base_url and self.kind != "vllm"

    @property
    def digest(self) -> str:
        """Content address of everything known to change the samples."""
        return digest_json({"kind": f"{self.kind}/1", "model": self.model, "base_url": self.base_url})

    def key(self) -> str:
        """Read the key from the environment; return a placeholder for servers that need no key.

        Raises:
            PolicyError: the variable of the key is not set.
        """
        found = os.environ.get(self.variable, "").strip()
        if found:
            return found
        if not PROVIDERS[self.kind].needs_key or urlsplit(self.base_url).hostname in _LOOPBACK:
            return NO_KEY
        raise PolicyError(
            f"no key: the environment variable {self.variable} is not set",
            where=self.spec,
            hint=f"export {self.variable}=...; or name another variable: {self.kind}:MODEL#VARIABLE",
        )

    def concurrency(self) -> int:
        """Requests in flight; SIA_POLICY_CONCURRENCY overrides the kind's default.

        Raises:
            UsageError: a value that is not a positive number.
        """
        text = os.environ.get(CONCURRENCY_VARIABLE, "")
        if not text:
            return PROVIDERS[self.kind].concurrency
        if not re.fullmatch(r"[1-9]\d{0,3}", text):
            raise UsageError(f"{text!r} is not a number of requests", where=CONCURRENCY_VARIABLE, hint="use 1 to 9999")
        return int(text)

    def check(self) -> None:
        """Refuse a missing SDK or key, or missing vLLM if the run starts it on this machine.

        Raises:
            PolicyError: the error's hint says what to install or to set.
            UsageError: an invalid SIA_POLICY_CONCURRENCY.
        """
        package = PROVIDERS[self.kind].package
        if importlib.util.find_spec(package) is None:
            raise PolicyError(f"{package} is not installed", where=self.spec, hint="pip install 'sia[llm]'")
        self.key()
        self.concurrency()
        if self.own and "RAY_ADDRESS" not in os.environ:
            require_program(server_program(), self.spec)


def parse_spec(spec: str) -> ServerSpec | None:
    """Parse a spec of a known kind; return None for any other spec.

    Raises:
        UsageError: an invalid spec of a known kind.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in PROVIDERS:
        return None
    found = _FORM.fullmatch(rest)
    end = "" if kind == "anthropic" else "/v1"
    hint = f"use {kind}:MODEL, {kind}:MODEL@http://HOST:PORT{end}, each with #VARIABLE if the key is elsewhere"
    if found is None or re.search(r"@[\w.-]+[:/]", found["model"]):
        raise UsageError(f"{spec!r} is not a valid policy", where="--policy", hint=hint)
    provider = PROVIDERS[kind]
    url = (found["url"] or provider.base_url).rstrip("/")
    if not url:
        if found["variable"]:
            what, hint = "a server that the run starts makes its own key", f"use {kind}:DIR, or {kind}:DIR@URL#VARIABLE"
            raise UsageError(what, where="--policy", hint=hint)
        return ServerSpec(spec, kind, found["model"], url, provider.variable)
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or not parts.hostname:
        # The address is recorded and printed, so it must not hold a secret.
        raise UsageError("remove user, password and query from the address", where="--policy", hint=hint)
    return ServerSpec(spec, kind, found["model"], url, found["variable"] or provider.variable)


def named_path(spec: str) -> Path:
    """The path that follows the kind in a spec such as `local:DIR` or `replay:FILE`."""
    return Path(spec.partition(":")[2]).expanduser().absolute()


def served_digest(base: Path) -> str:
    """Digest of a base model on a vLLM server; not that of `local:`, as other kernels round differently."""
    return digest_json(["vllm/1", base_digest(base)])


def server_program() -> tuple[str, ...]:
    """Command that starts vLLM: SIA_VLLM, else `vllm`."""
    return tuple(shlex.split(os.environ.get(PROGRAM_VARIABLE, ""))) or ("vllm",)


def require_program(program: Sequence[str], where: str) -> None:
    """Refuse a machine without vLLM.

    Raises:
        PolicyError: vLLM is not installed.
    """
    if shutil.which(program[0]) is None:
        hint = (
            f"pip install 'sia[gpu]' on the machine with the GPU, or set {PROGRAM_VARIABLE} to the program; "
            "or name a server that runs: vllm:DIR@http://HOST:PORT/v1"
        )
        raise PolicyError(f"vLLM is not installed: there is no program {program[0]!r}", where=where, hint=hint)

"""Policies by spec. Nothing heavy is imported before a policy is loaded."""

from collections.abc import Callable
from pathlib import Path

from sia_core.errors import UsageError
from sia_core.policy.protocol import Policy
from sia_core.policy.scripted import ScriptedPolicy

Progress = Callable[[str, int, int], None]
_KNOWN = "scripted, smollm2, or local:DIR with a Hugging Face model in DIR"


def check_spec(spec: str) -> None:
    """Refuse a spec no policy stands behind.

    Raises:
        UsageError: unknown spec.
    """
    if spec not in ("scripted", "smollm2") and not spec.startswith("local:"):
        raise UsageError(f"unknown policy {spec!r}", where="--policy", hint=f"use {_KNOWN}")


def prepare_policy(spec: str, progress: Progress) -> None:
    """Fetch what the policy needs; a no-op when all is there."""


def policy_digest(spec: str) -> str:
    """Digest of the policy without loading it."""
    return ScriptedPolicy.digest


def base_directory(spec: str) -> Path:
    """Directory of the base model of a trainable policy."""
    raise UsageError(f"policy {spec!r} has no base model")


def load_policy(spec: str, *, threads: int | None = None) -> Policy:
    """The policy behind a spec."""
    check_spec(spec)
    return ScriptedPolicy()

"""Policies by spec. Nothing heavy is imported before a policy is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

from sia_core.errors import UsageError
from sia_core.policy import smollm2
from sia_core.policy.base import base_digest, share_cores
from sia_core.policy.protocol import Policy
from sia_core.policy.scripted import ScriptedPolicy

Progress = Callable[[str, int, int], None]
_LOCAL = "local:"
_KNOWN = "scripted, smollm2, or local:DIR with a Hugging Face model in DIR"


def check_spec(spec: str) -> None:
    """Refuse a spec no policy stands behind.

    Raises:
        UsageError: unknown spec, or one that this version does not offer yet.
    """
    if spec in ("scripted", "smollm2") or spec.startswith(_LOCAL):
        return
    later = " yet" if spec.split(":")[0] in ("openai", "anthropic", "vllm") else ""
    what = f"policy {spec!r} is not offered{later}" if later else f"unknown policy {spec!r}"
    raise UsageError(what, where="--policy", hint=f"use {_KNOWN}")


def prepare_policy(spec: str, progress: Progress) -> None:
    """Fetch what the policy needs, and check it; fast when all is there.

    Raises:
        FetchError: it cannot be fetched.
        PolicyError: files that are not what they should be.
    """
    if spec == "smollm2":
        smollm2.check_weights(smollm2.ensure_smollm2(progress))
    elif spec.startswith(_LOCAL):
        base_digest(base_directory(spec))


def policy_digest(spec: str) -> str:
    """Digest of the policy, without loading it."""
    return ScriptedPolicy.digest if spec == "scripted" else base_digest(base_directory(spec))


def base_directory(spec: str) -> Path:
    """Directory of the base model of a trainable policy.

    Raises:
        UsageError: a policy that has none.
    """
    if spec == "smollm2":
        return smollm2.directory()
    if spec.startswith(_LOCAL):
        return Path(spec.removeprefix(_LOCAL)).expanduser().absolute()
    raise UsageError(f"policy {spec!r} has no base model", where="--policy", hint=f"use {_KNOWN}")


def load_policy(spec: str, *, threads: int | None = None) -> Policy:
    """The policy behind a spec, its weights in memory."""
    check_spec(spec)
    if spec == "scripted":
        return ScriptedPolicy()
    share_cores()
    from sia_core.policy.local import LocalPolicy  # Loads torch and transformers.

    return LocalPolicy(spec, base_directory(spec), threads=threads or min(4, os.cpu_count() or 1))

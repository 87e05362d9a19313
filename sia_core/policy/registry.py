"""Policies by spec. Nothing heavy is imported before a policy is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

from sia_core.errors import UsageError
from sia_core.policy import smollm2
from sia_core.policy.base import base_digest, share_cores
from sia_core.policy.protocol import Policy
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.policy.spec import ServerSpec, parse_spec, served_digest

Progress = Callable[[str, int, int], None]
_LOCAL, _REPLAY, _VLLM = "local:", "replay:", "vllm:"
_KNOWN = "scripted, smollm2, local:DIR, openai:MODEL[@URL], anthropic:MODEL[@URL], vllm:DIR[@URL] or replay:FILE"


def check_spec(spec: str) -> None:
    """Refuse a spec no policy stands behind, or whose key is missing.

    Raises:
        UsageError: unknown spec, or one that cannot be meant.
        PolicyError: no key in the environment, or no SDK.
    """
    server = parse_spec(spec)
    if server is not None:
        server.check()
    elif spec not in ("scripted", "smollm2") and not spec.startswith((_LOCAL, _REPLAY)):
        raise UsageError(f"unknown policy {spec!r}", where="--policy", hint=f"use {_KNOWN}")


def costs_money(spec: str) -> bool:
    """Whether replies are to be kept, so that none is asked for twice."""
    server = parse_spec(spec)
    return server is not None and server.kind != "vllm"


def prepare_policy(spec: str, progress: Progress) -> None:
    """Fetch what the policy needs, and check it; fast when all is there.

    Raises:
        FetchError: it cannot be fetched.
        PolicyError: files that are not what they should be.
    """
    if spec == "smollm2":
        smollm2.check_weights(smollm2.ensure_smollm2(progress))
    elif spec.startswith((_LOCAL, _VLLM)):
        base_digest(base_directory(spec))


def policy_digest(spec: str) -> str:
    """Digest of the policy, without loading it."""
    server = parse_spec(spec)
    if server is not None:
        return served_digest(base_directory(spec)) if server.kind == "vllm" else server.digest
    if spec.startswith(_REPLAY):
        from sia_core.policy.log import read_log

        return str(read_log(_replay_file(spec))[0]["digest"])
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
    server = parse_spec(spec)
    if server is not None and server.kind == "vllm":
        return Path(server.model).expanduser().absolute()
    raise UsageError(f"policy {spec!r} has no base model", where="--policy", hint="use smollm2, local:DIR or vllm:DIR")


def load_policy(spec: str, *, threads: int | None = None, batch: int = 1, log: Path | None = None) -> Policy:
    """The policy behind a spec, its weights in memory.

    Args:
        threads: of a local model.
        batch: requests a local model samples together.
        log: where the replies of a policy that costs money are kept.
    """
    check_spec(spec)
    if spec == "scripted":
        return ScriptedPolicy()
    server = parse_spec(spec)
    if server is not None:
        from sia_core.policy.log import LoggedPolicy

        policy = _load_server(server)
        return policy if log is None else LoggedPolicy(policy, log)
    if spec.startswith(_REPLAY):
        from sia_core.policy.log import ReplayPolicy

        return ReplayPolicy(spec, _replay_file(spec))
    share_cores()
    from sia_core.policy.local import LocalPolicy  # Loads torch and transformers.

    return LocalPolicy(spec, base_directory(spec), threads=threads or min(4, os.cpu_count() or 1), batch=batch)


def _load_server(server: ServerSpec) -> Policy:
    # Each loads an SDK; the last one transformers too.
    if server.kind == "openai":
        from sia_core.policy.openai_chat import OpenAIPolicy

        return OpenAIPolicy(server)
    if server.kind == "anthropic":
        from sia_core.policy.anthropic_messages import AnthropicPolicy

        return AnthropicPolicy(server)
    share_cores()
    from sia_core.policy.vllm import VllmPolicy

    return VllmPolicy(server, base_directory(server.spec))


def _replay_file(spec: str) -> Path:
    return Path(spec.removeprefix(_REPLAY)).expanduser().absolute()

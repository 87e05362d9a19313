"""Policies by spec. Nothing heavy is imported before a policy is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

from sia_core.errors import UsageError
from sia_core.policy import smollm2
from sia_core.policy.base import base_digest, share_cores
from sia_core.policy.http_spec import HttpSpec, parse_http
from sia_core.policy.protocol import Policy
from sia_core.policy.scripted import ScriptedPolicy

Progress = Callable[[str, int, int], None]
_LOCAL, _REPLAY = "local:", "replay:"
_KNOWN = "scripted, smollm2, local:DIR, openai:MODEL[@URL], anthropic:MODEL[@URL] or replay:FILE"
CONCURRENCY = 16
"""Requests in flight to a model over HTTP, unless SIA_POLICY_CONCURRENCY says otherwise."""


def check_spec(spec: str) -> None:
    """Refuse a spec no policy stands behind, or whose key is missing.

    Raises:
        UsageError: unknown spec, or one that this version does not offer yet.
        PolicyError: no key in the environment.
    """
    http = parse_http(spec)
    if http is not None:
        _ = http.key
        return
    if spec in ("scripted", "smollm2") or spec.startswith((_LOCAL, _REPLAY)):
        return
    what = f"policy {spec!r} is not offered yet" if spec.startswith("vllm:") else f"unknown policy {spec!r}"
    raise UsageError(what, where="--policy", hint=f"use {_KNOWN}")


def costs_money(spec: str) -> bool:
    """Whether replies are to be kept, so that none is asked for twice."""
    return parse_http(spec) is not None


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
    http = parse_http(spec)
    if http is not None:
        return http.digest
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
    raise UsageError(f"policy {spec!r} has no base model", where="--policy", hint="use smollm2 or local:DIR")


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
    http = parse_http(spec)
    if http is not None:
        from sia_core.policy.log import LoggedPolicy

        policy = _load_http(spec, http)
        return policy if log is None else LoggedPolicy(policy, log)
    if spec.startswith(_REPLAY):
        from sia_core.policy.log import ReplayPolicy

        return ReplayPolicy(spec, _replay_file(spec))
    share_cores()
    from sia_core.policy.local import LocalPolicy  # Loads torch and transformers.

    return LocalPolicy(spec, base_directory(spec), threads=threads or min(4, os.cpu_count() or 1), batch=batch)


def _load_http(spec: str, http: HttpSpec) -> Policy:
    concurrency = int(os.environ.get("SIA_POLICY_CONCURRENCY", CONCURRENCY))
    if http.kind == "openai":
        from sia_core.policy.openai_chat import OpenAIPolicy

        return OpenAIPolicy(spec, http, concurrency=concurrency)
    from sia_core.policy.anthropic_messages import AnthropicPolicy

    return AnthropicPolicy(spec, http, concurrency=concurrency)


def _replay_file(spec: str) -> Path:
    return Path(spec.removeprefix(_REPLAY)).expanduser().absolute()

"""Policies by spec. Nothing heavy is imported before a policy is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

from sia_core.domain.errors import UsageError
from sia_core.domain.near import near_spec
from sia_core.host.machine.processors import cpus
from sia_core.policy import smollm2
from sia_core.policy.base import base_digest, share_cores
from sia_core.policy.dialect import Learner
from sia_core.policy.protocol import Policy
from sia_core.policy.retry import Retry
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.policy.spec import (
    CONCURRENCY_VARIABLE,
    PROGRAM_VARIABLE,
    PROVIDERS,
    ServerSpec,
    named_path,
    parse_spec,
    served_digest,
)

Progress = Callable[[str, int, int], None]
Serve = Callable[[ServerSpec, Path], Policy]
"""Starts a server for a base model, and returns its policy."""
_LOCAL, _REPLAY, _VLLM = "local:", "replay:", "vllm:"
_KNOWN = "scripted, smollm2, local:DIR, openai:MODEL[@URL], anthropic:MODEL[@URL], vllm:DIR[@URL] or replay:FILE"


def check_spec(spec: str) -> None:
    """Refuse an unknown or invalid spec, or a spec with a missing key.

    Raises:
        UsageError: unknown or invalid spec.
        PolicyError: no key in the environment, or no SDK.
    """
    server = parse_spec(spec)
    if server is not None:
        server.check()
    elif spec not in ("scripted", "smollm2") and not spec.startswith((_LOCAL, _REPLAY)):
        near = near_spec(spec, ("scripted", "smollm2", _LOCAL, _REPLAY, *(f"{kind}:" for kind in PROVIDERS)))
        raise UsageError(f"unknown policy {spec!r}{near}", where="--policy", hint=f"use {_KNOWN}")


def key_variables(spec: str) -> frozenset[str]:
    """Environment variables that may hold keys, of this and all other policies."""
    server = parse_spec(spec)
    own = {server.variable} if server is not None else set()
    return frozenset({provider.variable for provider in PROVIDERS.values()} | own)


def environment(spec: str) -> dict[str, str]:
    """Return the environment variables that `load_policy` reads, for another process."""
    server = parse_spec(spec)
    if server is None:
        return {}
    names = (CONCURRENCY_VARIABLE, PROGRAM_VARIABLE) if server.own else (CONCURRENCY_VARIABLE, server.variable)
    return {name: os.environ[name] for name in names if name in os.environ}


def prepare_policy(spec: str, progress: Progress) -> None:
    """Fetch and check the policy's files, unless they exist.

    Raises:
        FetchError: files cannot be fetched.
        PolicyError: files are invalid.
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

        return str(read_log(named_path(spec))[0]["digest"])
    return ScriptedPolicy.digest if spec == "scripted" else base_digest(base_directory(spec))


def base_directory(spec: str) -> Path:
    """Directory of the base model of a trainable policy.

    Raises:
        UsageError: a policy without a base model.
    """
    if spec == "smollm2":
        return smollm2.directory()
    if spec.startswith(_LOCAL):
        return named_path(spec)
    server = parse_spec(spec)
    if server is not None and server.kind == "vllm":
        return Path(server.model).expanduser().absolute()
    raise UsageError(f"policy {spec!r} has no base model", where="--policy", hint="use smollm2, local:DIR or vllm:DIR")


def can_train(spec: str) -> bool:
    """Return True if the policy of a spec has weights that an update can train."""
    server = parse_spec(spec)
    return spec == "smollm2" or spec.startswith(_LOCAL) or (server is not None and server.kind == "vllm")


def load_policy(
    spec: str,
    *,
    threads: int | None = None,
    batch: int = 1,
    log: Path | None = None,
    serve: Serve | None = None,
    silence_s: float | None = None,
    retry: Retry | None = None,
    learner: Learner | None = None,
) -> Policy:
    """Load the policy of a spec, with its weights in memory.

    Args:
        threads: CPU threads of a local model.
        batch: number of requests that a local model samples together.
        log: file for replies of a model behind a server.
        serve: function that starts the server of a spec without an address.
        silence_s: for an agent's model behind openai: or anthropic:, seconds that its server may send nothing.
        retry: retries of requests to a server, if not those of a policy or an agent.
        learner: for openai: and anthropic:, what is known of the server, and the listener for what is learnt.

    Raises:
        UsageError: unknown or invalid spec, or a server to start without `serve`.
    """
    check_spec(spec)
    if spec == "scripted":
        return ScriptedPolicy()
    server = parse_spec(spec)
    if server is not None:
        from sia_core.policy.log import LoggedPolicy

        retry = retry or (Retry() if silence_s is None else Retry.of_agent(silence_s))
        policy = _load_server(server, serve, retry, learner)
        return policy if log is None else LoggedPolicy(policy, log)
    if spec.startswith(_REPLAY):
        from sia_core.policy.log import ReplayPolicy

        return ReplayPolicy(spec, named_path(spec))
    share_cores()
    from sia_core.policy.local import LocalPolicy  # Loads torch and transformers.

    return LocalPolicy(spec, base_directory(spec), threads=threads or min(4, cpus()), batch=batch)


def _load_server(server: ServerSpec, serve: Serve | None, retry: Retry, learner: Learner | None) -> Policy:
    # Each import loads an SDK, and the last one transformers too.
    if server.kind == "openai":
        from sia_core.policy.openai_chat import OpenAIPolicy

        return OpenAIPolicy(server, retry, learner)
    if server.kind == "anthropic":
        from sia_core.policy.anthropic_messages import AnthropicPolicy

        return AnthropicPolicy(server, retry, learner)
    if server.own:
        if serve is None:
            raise UsageError("a run is needed to start its server", where=server.spec, hint="use vllm:DIR@URL")
        return serve(server, base_directory(server.spec))
    share_cores()
    from sia_core.policy.vllm import VllmPolicy

    return VllmPolicy(server, base_directory(server.spec), server.key())

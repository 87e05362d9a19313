"""Measure at connect that a model server serves the adapters that the trainer trains."""

from dataclasses import asdict
from pathlib import Path

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import PolicyError
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine
from sia_core.host.progress import Reporter
from sia_core.policy.registry import base_directory
from sia_core.policy.spec import parse_spec
from sia_core.record.store import RunRecord
from sia_core.weights.launcher import TrainerHandle
from sia_core.weights.serving import Agreement, agreement, why_not_trainable
from sia_core.weights.spec import UpdateSpec

FILE = "serving.json"


def check_serving(
    run: RunRecord, config: RunConfig, task: Task, engine: Engine, folder: Path, listener: Reporter
) -> Agreement | None:
    """Compare the server of a `vllm:` policy with the trainer, and record the agreement; None for other policies.

    A small reference adapter goes the way of every trained one, over the shared folder to the server.

    Raises:
        PolicyError: weights trained here would not be those that the server serves.
    """
    spec = parse_spec(config.policy)
    if spec is None or spec.kind != "vllm" or "weights" not in config.levers:
        return None
    update, resources = task.config.update, task.config.resources
    reference = UpdateSpec(
        parent_adapter=None,
        rounds=1,
        steps=1,
        learning_rate=1.0,
        rank=update.rank,
        temperature=1.0,
        seed=0,
        dtype=update.dtype or "fp32",
    )
    with TrainerHandle(
        base_directory(config.policy),
        reference,
        None,
        folder / "updates",
        threads=config.threads,
        device=resources.train_device,
        gpus=resources.train_gpus,
    ) as trainer:
        made = trainer.reference()
    engine.wait_for_policy()
    probe = engine.policy.probe
    found = agreement(probe(None), probe(made.adapter), made.bare, made.adapted)
    run.put_json(FILE, asdict(found))
    reason = why_not_trainable(found, update.max_gap or UpdateSpec.max_gap)
    if reason is not None:
        what = f"{reason}: the server would not serve the weights that are trained"
        raise PolicyError(what, where=spec.spec, hint=_hint(spec.own))
    listener.say(
        f"served and trained logprobs differ by {found.gap:.1e} on average; "
        f"an adapter's effect is served within {found.error:.1%}"
    )
    return found


def _hint(own: bool) -> str:
    how = "set SIA_VLLM_ARGS='--dtype float32'" if own else "start it with --dtype float32"
    return f"{how} (on a GPU --dtype float16); or leave the weights out: --levers harness"

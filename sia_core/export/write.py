"""Write a finished run's winner as an export; the same run gives the same bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.agents.recording import DECISIONS, write_recording
from sia_core.domain.candidate import Adapter
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Node, champion
from sia_core.domain.stats import Estimate, Gain
from sia_core.domain.task import Task
from sia_core.domain.task_config import RolloutLimits, SamplingDefaults
from sia_core.export import manifest
from sia_core.export.card import Card, write_card
from sia_core.export.decisions import recording_of
from sia_core.host.directories import new_directory, write_files
from sia_core.policy.adapter_files import read_config
from sia_core.policy.base import ADAPTER_FILES
from sia_core.record.arms import SCORES
from sia_core.record.phases import SealedDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag


def write_export(run: RunRecord, task: Task, target: Path) -> manifest.Manifest:
    """Write the winner of a finished run into a new directory, which appears whole.

    Args:
        run: a finished run.
        task: its unchanged task.
        target: a directory that does not exist or is empty.

    Raises:
        UsageError: `target` exists and is not empty.
        RecordError: there is no sealed test yet, stored data are missing or changed, or `target` cannot be written.
    """
    test = run.phase(SealedDone)
    if test is None:
        hint = f"finish it: sia resume {run.name}"
        raise RecordError("has no sealed test yet, so there are no scores to export", where=run.name, hint=hint)
    winner = champion(run.nodes())
    harness, adapter = run.harness(winner.candidate.harness), run.adapter(winner.candidate.adapter)
    with new_directory(target) as folder:
        return _fill(folder, run, task, winner, harness, adapter, test)


def _fill(
    folder: Path, run: RunRecord, task: Task, winner: Node, harness: Harness, adapter: Adapter | None, test: SealedDone
) -> manifest.Manifest:
    write_files(folder / manifest.HARNESS, harness.files)
    if adapter is not None:
        (folder / manifest.ADAPTER).mkdir()
        for name in ADAPTER_FILES:
            (folder / manifest.ADAPTER / name).write_bytes((adapter.path / name).read_bytes())
    made = _manifest(run, task, winner, adapter, test)
    rank = None if adapter is None else int(read_config(adapter.path)["r"])
    card = Card(made, run.config, run.nodes(), test, run.get_json("spending.json"), task, rank)
    (folder / manifest.CARD).write_text(write_card(card))
    (folder / DECISIONS).write_bytes(write_recording(recording_of(run, task)))
    made = made.model_copy(update={"files": manifest.list_files(folder)})
    (folder / manifest.MANIFEST).write_text(json.dumps(made.model_dump(mode="json"), indent=1) + "\n")
    return made


def _manifest(run: RunRecord, task: Task, winner: Node, adapter: Adapter | None, test: SealedDone) -> manifest.Manifest:
    tags, config = run.tags, run.config
    return manifest.Manifest(
        sia=tags[Tag.VERSION],
        run=run.name,
        node=winner.index,
        harness=winner.candidate.harness,
        adapter=winner.candidate.adapter,
        probe=_probe(run, winner.candidate.adapter),
        task=_task_part(task),
        policy=manifest.PolicyPart(
            spec=config.policy,
            digest=tags[Tag.POLICY_DIGEST],
            base=_base(config.policy, tags[Tag.POLICY_DIGEST], adapter),
            threads=config.threads,
            batch=config.batch,
        ),
        test=_sealed_part(config, test, run.get_json(SCORES) or {}),
        files={},
    )


def _probe(run: RunRecord, adapter: str | None) -> tuple[float, ...]:
    """Return the trainer's logprobs of an adapter, from the generation that trained it."""
    if adapter is None:
        return ()
    first = next(node for node in run.nodes() if node.candidate.adapter == adapter)
    if not first.generation:
        return ()
    rounds = run.generation(first.generation).sibling(first.sibling).get_json("update/rounds.json") or {}
    return tuple(rounds.get("probe", ()))


def _task_part(task: Task) -> manifest.TaskPart:
    config = task.config
    return manifest.TaskPart(
        name=task.name,
        digest=task.digest,
        title=config.title,
        metric=config.metric,
        score_range=config.score_range,
        sampling=SamplingDefaults(**config.sampling.model_dump()),
        limits=RolloutLimits(**config.limits.model_dump()),
        problem_keys=tuple(task.problems("train")[0].public),
        shares_files=task.shared is not None,
    )


def _sealed_part(config: RunConfig, test: SealedDone, scores: Mapping[str, Any]) -> manifest.SealedTest:
    return manifest.SealedTest(
        seed=config.seed,
        problems=config.test_problems,
        rollouts=config.test_rollouts,
        confidence=config.confidence,
        final=_interval(test.final),
        first=_interval(test.seed),
        gain=_interval(test.gain),
        scores=dict(scores.get("final", {})),
    )


def _interval(found: Estimate | Gain) -> manifest.Interval:
    return manifest.Interval(mean=found.mean, low=found.low, high=found.high)


def _base(spec: str, policy: str, adapter: Adapter | None) -> str | None:
    """Return the digest of the base model: a local policy's, else the one that the adapter names."""
    if spec == "smollm2" or spec.startswith("local:"):
        return policy
    if adapter is None:
        return None
    named = str(json.loads((adapter.path / ADAPTER_FILES[0]).read_text()).get("base_model_name_or_path"))
    return named.removeprefix("sha256:") if named.startswith("sha256:") else None

"""Score an export again: run the units of its run's sealed test with the usual engine.

The key of a unit is made of task, harness, policy, adapter, problem, seed and sampling, and all randomness of its
rollout derives from the key. With a deterministic policy, such as local ones, the figures therefore equal the record to
the last digit. Otherwise, or with other options, the evaluation says why they may differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sia_core.agents.evidence import scores_by_problem
from sia_core.domain.config import Tier
from sia_core.domain.errors import PolicyError, ServiceError, TaskError
from sia_core.domain.hashing import derive_seed
from sia_core.domain.plan import SEALED, deal, shuffled
from sia_core.domain.rollout import Rollout, Sampling, Unit
from sia_core.domain.stats import Estimate, estimate
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.export.base import check_policy
from sia_core.export.manifest import Export
from sia_core.host.home import home
from sia_core.host.progress import Reporter
from sia_core.policy.probes import MAX_GAP, distance
from sia_core.policy.protocol import Policy
from sia_core.policy.registry import policy_digest


@dataclass(frozen=True)
class Options:
    """Options of an evaluation."""

    policy: str = ""
    """Spec of the policy on this machine; the export's if empty."""
    rollouts: int | None = None
    """Rollouts of each problem; as in the record if None."""
    tier: Tier = "strict"
    workers: int | None = None
    any_task: bool = False
    """True if another task than the export's is allowed, whose figures have nothing to compare with."""


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation of an export."""

    task: str
    task_digest: str
    policy: str
    policy_digest: str
    score: Estimate
    scores: Mapping[str, Sequence[float]]
    """Scores by problem, in the order of unit keys."""
    unscored: int
    """Rollouts without a score, for reasons other than the candidate."""
    report: Mapping[str, float | str]
    """Report of the task itself on these rollouts."""
    recorded: Mapping[str, float]
    """Mean and interval of the record."""
    same: bool | None
    """True if every rollout scored what the record says; None if the scores cannot be compared with the record."""
    why: str
    """Reason for which the scores cannot be compared, or the difference; empty if there is none."""


def evaluate(export: Export, task: Task, options: Options, reporter: Reporter) -> Evaluation:
    """Repeat the sealed test of an export's run on `task`, and score it.

    Raises:
        TaskError: the task is not the export's, or no rollout was scored.
        PolicyError: the base model differs.
        SandboxError, ServiceError, FetchError: a sandbox, server or file is not available.
    """
    manifest = export.manifest
    check_task(export, task, any_task=options.any_task)
    spec = check_policy(export, options.policy, reporter)
    task.prepare(reporter.progress)
    # Each policy has its own log, so that paid replies are not requested again.
    folder = home() / "evals" / f"{manifest.harness[:12]}-{policy_digest(spec)[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = EngineConfig(
        spec, options.tier, manifest.policy.threads, batch=manifest.policy.batch, workers=options.workers, folder=folder
    )
    with Engine(settings, task, reporter.say) as engine:
        check_served(export, engine.policy)
        units = sealed_units(export, task, engine.policy.digest, options.rollouts)
        rollouts: list[Rollout] = []
        reporter.progress("sealed test", 0, len(units))
        for rollout in engine.run(units, export.harness, export.adapter):
            rollouts.append(rollout)
            reporter.progress("sealed test", len(rollouts), len(units))
        return _judge(export, task, spec, engine.policy.digest, rollouts, options)


def check_served(export: Export, policy: Policy) -> None:
    """Compare the policy's logprobs under the adapter with the trainer's.

    Raises:
        PolicyError: another adapter, or one that rounding has changed, is served.
    """
    probe = export.manifest.probe
    if not probe or not policy.trainable or export.adapter is None:
        return
    off = distance(policy.probe(export.adapter), probe)
    if not off <= MAX_GAP:
        raise PolicyError(
            f"its logprobs under the adapter differ from the trainer's by {off:.2g} on average (limit {MAX_GAP:g})",
            where=policy.spec,
            hint="start the server with --dtype float32, on a GPU with --dtype float16; or use a local policy",
        )


def check_task(export: Export, task: Task, *, any_task: bool) -> None:
    """Refuse a task whose files differ from the export's.

    Raises:
        TaskError: the files differ.
    """
    made_on = export.manifest.task
    if task.digest != made_on.digest and not any_task:
        raise TaskError(
            f"is not the task of the export: its digest is {task.digest[:12]}, {made_on.name}'s was "
            f"{made_on.digest[:12]}",
            where=str(task.path),
            hint="restore the task's files, or use --any-task for figures without comparison",
        )


def sealed_units(export: Export, task: Task, policy: str, rollouts: int | None) -> list[Unit]:
    """Plan the units of the sealed test; for another task, as a run with the same seed would choose them.

    Args:
        policy: digest of the policy that answers.
        rollouts: rollouts of each problem; None for the record's.
    """
    manifest = export.manifest
    test, sampling = manifest.test, manifest.task.sampling
    problems = deal(shuffled((problem.id for problem in task.problems("test")), test.seed, "test"), 0, test.problems)
    return [
        Unit(
            task=task.digest,
            harness=manifest.harness,
            policy=policy,
            adapter=manifest.adapter,
            split="test",
            problem=problem,
            seed=derive_seed(test.seed, "test", SEALED, problem, number),
            sampling=Sampling(sampling.temperature, sampling.max_tokens),
        )
        for problem in problems
        for number in range(rollouts or test.rollouts)
    ]


def _judge(
    export: Export, task: Task, spec: str, policy: str, rollouts: Sequence[Rollout], options: Options
) -> Evaluation:
    test, scores = export.manifest.test, scores_by_problem(rollouts)
    unscored = sum(rollout.score is None for rollout in rollouts)
    if not scores:
        reasons = {str(rollout.failure.reason) for rollout in rollouts if rollout.failure is not None}
        raise ServiceError("no rollout was scored", where=task.name, hint=f"they say: {'; '.join(sorted(reasons)[:3])}")
    same, why = _compare(export, task, policy, scores, options)
    return Evaluation(
        task=task.name,
        task_digest=task.digest,
        policy=spec,
        policy_digest=policy,
        score=estimate(scores, confidence=test.confidence, seed=derive_seed(test.seed, "test")),
        scores=scores,
        unscored=unscored,
        report=task.report_or_remark("test", sorted(rollouts, key=lambda rollout: rollout.unit.key)),
        recorded=test.final.model_dump(),
        same=same,
        why=why,
    )


def _compare(
    export: Export, task: Task, policy: str, scores: Mapping[str, Sequence[float]], options: Options
) -> tuple[bool | None, str]:
    manifest = export.manifest
    if task.digest != manifest.task.digest:
        return None, "another task than the export's: there is nothing to compare with"
    if policy != manifest.policy.digest:
        return None, "the same base model, served in another way, which rounds differently"
    if options.rollouts not in (None, manifest.test.rollouts):
        return None, f"{options.rollouts} rollouts a problem, the record has {manifest.test.rollouts}"
    recorded = manifest.test.scores
    if not recorded:
        return None, "the record has no scores by problem"
    differing = [
        problem for problem in sorted({*recorded, *scores}) if list(scores.get(problem, ())) != recorded.get(problem)
    ]
    if not differing:
        return True, ""
    return False, f"{len(differing)} of {len(recorded)} problems have other scores, first {differing[0]}"

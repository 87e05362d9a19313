"""Comparison of arms: different ways to spend the same budget on one task, with the same seeds and sealed problems.

The two kinds of interval answer different questions. Over problems (cluster bootstrap): would these very runs be better
on other problems? Over seeds (Student's t of the runs' means, paired by seed): would another run be better? The
interval over seeds needs at least two seeds, and is rightly wide for few seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field
from scipy.special import stdtrit

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError, UsageError
from sia_core.domain.json_data import Strict
from sia_core.domain.lineage import Cost
from sia_core.domain.near import did_you_mean
from sia_core.domain.stats import Estimate, Gain, Scores, estimate, paired_gain
from sia_core.record.arms import SCORES
from sia_core.record.phases import SealedDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

SEED = "seed"
RULES, RECORDED = "rules", "recorded"
BEST_OF_N = "best-of-n"
AGENT = "agent"
FORMER = "choice"
"""Name of the arm `agent` in earlier comparisons."""


@dataclass(frozen=True)
class Arm:
    """One line of a comparison: one way to spend the budget."""

    name: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run's configuration that the arm changes, by name."""


ARMS = {
    arm.name: arm
    for arm in (
        Arm("harness", "rewrites of the harness alone", {"levers": ("harness",)}),
        Arm("weights", "updates of the weights alone", {"levers": ("weights",)}),
        Arm("alternate", "both levers in turn", {"agent": "alternate"}),
        Arm(RULES, "both levers, as the rules agent chooses", {"agent": RULES}),
        Arm(AGENT, "both levers, as the agent chooses"),
        Arm(FORMER, "both levers, as the agent chooses"),
        Arm(BEST_OF_N, "the seed, N tries a sealed problem, the verifier takes the best", {"levers": ()}),
    )
}


_SINGLE = ("harness", "weights")
"""Arms with one lever."""
_TRAINING = ("weights", "alternate")
"""Arms that are left out for a policy that cannot be trained."""


class ArmsPlan(Strict):
    """A comparison of arms: frozen, recorded whole."""

    config: RunConfig
    """Configuration of the arm `agent`, whose seed is the comparison's first."""
    arms: tuple[str, ...]
    seeds: int = Field(ge=1)

    @property
    def members(self) -> list[tuple[int, Arm]]:
        """Seed and arm of each run, in order: best-of-N comes last, because it needs the cost of the others."""
        seeds = range(self.config.seed, self.config.seed + self.seeds)
        return [(seed, ARMS[name]) for seed in seeds for name in self.arms]

    @property
    def about(self) -> str:
        """Description of the comparison, in a sentence."""
        config = self.config
        alone = [name for name in self.arms if name in _SINGLE and config.agent != self._agent(name)]
        instead = f" ({RULES} in {' and '.join(alone)})" if alone else ""
        run = f"policy {config.policy}, agent {config.agent}{instead}"
        return f"Comparison of {', '.join(self.arms)} over {self.seeds} seeds, {run}."

    def with_seeds(self, seeds: int) -> "ArmsPlan":
        """Return the same plan over more seeds.

        Raises:
            UsageError: fewer seeds than before; finished runs are not left out.
        """
        if seeds < self.seeds:
            what = f"the comparison has {self.seeds} seeds already"
            raise UsageError(what, where=f"--seeds {seeds}", hint=f"add seeds with --seeds {self.seeds + 1} or more")
        return self.model_copy(update={"seeds": seeds})

    def member_config(self, seed: int, arm: Arm, others: Sequence[Cost]) -> RunConfig:
        """The configuration of one run.

        Args:
            others: costs of the seed's other arms, without their sealed tests.
        """
        changes: dict[str, Any] = {"agent": self._agent(arm.name), **arm.settings, "seed": seed}
        if arm.name == BEST_OF_N:
            most = max(cost.rollouts for cost in others)
            tries = math.ceil(most / self.config.test_problems)
            # Sampling the seed needs no generation; the minimum is one generation of one rollout.
            changes |= {"agent": RULES, "generations": 1, "problems": 1, "rollouts": 1, "test_rollouts": tries}
        return self.config.model_copy(update=changes)

    def _agent(self, arm: str) -> str:
        """Return the agent of an arm: `rules` for a single lever, as recorded decisions pull both."""
        recorded = self.config.agent.partition(":")[0] == RECORDED
        return RULES if recorded and arm in _SINGLE else self.config.agent


def plan_arms(config: RunConfig, names: Sequence[str], seeds: int) -> ArmsPlan:
    """Plan a comparison of named arms, by default of all that apply.

    Args:
        names: names of arms; `choice` means `agent`.

    Raises:
        UsageError: an unknown arm, or one that cannot be run.
    """
    by_rules = config.agent == RULES
    known = [name for name in ARMS if name != FORMER]
    chosen = [AGENT if name == FORMER else name for name in names]
    trains = "weights" in config.levers
    possible = [name for name in known if not (name == RULES and by_rules) and (trains or name not in _TRAINING)]
    chosen = chosen or possible
    unknown = [name for name in chosen if name not in known]
    if unknown:
        what = f"unknown arm {unknown[0]!r}{did_you_mean(unknown[0], known)}"
        raise UsageError(what, where="--arms", hint=f"use {', '.join(known)}")
    if not trains and (untrained := [name for name in chosen if name in _TRAINING]):
        what = f"arm {untrained[0]} trains weights, and policy {config.policy} cannot be trained"
        hint = f"leave it out: --arms {','.join(possible)}; or name a policy with weights"
        raise UsageError(what, where="--arms", hint=hint)
    if RULES in chosen and AGENT in chosen and by_rules:
        raise UsageError("arms rules and agent are the same here", where="--arms", hint="name an --agent, or one arm")
    if BEST_OF_N in chosen and len(set(chosen)) == 1:
        what = "best-of-n spends what another arm has spent"
        raise UsageError(what, where="--arms", hint="add another, such as harness")
    ordered = [name for name in known if name in chosen]
    return ArmsPlan(config=config, arms=tuple(ordered), seeds=seeds)


@dataclass(frozen=True)
class ArmRun:
    """Results of one finished run."""

    arm: str
    seed: int
    run: str
    final: Scores
    """Sealed problem -> scores under the final candidate."""
    initial: Scores
    """Sealed problem -> scores under the seed candidate, with the seeds of `final`."""
    cost: Cost
    """Cost of all generations; for best-of-N, cost of its tries."""
    promoted: int = 0
    """Children that were promoted."""


def read_member(run: RunRecord) -> ArmRun:
    """Read the sealed scores and cost of a finished run of a comparison.

    Raises:
        RecordError: the run is not finished.
    """
    scores = run.get_json(SCORES)
    if run.phase(SealedDone) is None or scores is None:
        raise RecordError("is not finished", where=run.name, hint=f"resume the run: sia resume {run.name}")
    nodes = run.nodes()
    arm = run.tags[Tag.ARM]
    cost = sum((node.cost for node in nodes), Cost())
    final, initial = scores["final"], scores["seed"]
    if arm == BEST_OF_N:
        final = {problem: [max(values)] for problem, values in final.items() if values}
        cost += Cost(**scores["cost"])
    promoted = sum(node.promoted for node in nodes[1:])
    return ArmRun(arm, int(run.tags[Tag.SEED]), run.name, final, initial, cost, promoted)


@dataclass(frozen=True)
class Span:
    """A mean over seeds, and its two-sided interval, which is None for one seed."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.mean:+.4f} " + ("[one seed]" if self.low is None else f"[{self.low:+.4f}, {self.high:+.4f}]")


@dataclass(frozen=True)
class ArmRow:
    """Results of one arm over all its seeds."""

    arm: str
    about: str
    seeds: int
    score: Estimate
    """Interval over problems."""
    by_seed: tuple[float, ...]
    gain: Gain | None
    """Gain over the seed candidate on the same problems, interval over problems; None for the seed itself."""
    gain_over_seeds: Span | None
    cost: Cost
    """Mean cost of a run."""
    promoted: float
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Versus:
    """`arm` minus `other`, paired by seed and problem."""

    arm: str
    other: str
    over_problems: Gain
    over_seeds: Span


@dataclass(frozen=True)
class Comparison:
    """Results of all arms."""

    confidence: float
    rows: tuple[ArmRow, ...]
    versus: tuple[Versus, ...]


def compare(runs: Sequence[ArmRun], *, confidence: float, seed: int = 0) -> Comparison:
    """Compare finished runs.

    Args:
        runs: runs of each arm, on the same seeds.
        confidence: confidence of all intervals.
        seed: seed of the bootstrap.

    Raises:
        ValueError: no run, or arms that were not run on the same seeds.
    """
    by_arm: dict[str, list[ArmRun]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_arm.setdefault(run.arm, []).append(run)
    seeds = {tuple(run.seed for run in side) for side in by_arm.values()}
    if len(seeds) != 1:
        raise ValueError("a comparison needs the same seeds for each arm")
    first = next(iter(by_arm.values()))
    seed_runs = [ArmRun(SEED, run.seed, run.run, run.initial, run.initial, Cost()) for run in first]
    rows = [_row(side, confidence, seed) for side in (seed_runs, *by_arm.values())]
    lead = next((name for name in (AGENT, FORMER) if name in by_arm), next(iter(by_arm)))
    versus = [_versus(by_arm[lead], by_arm[other], confidence, seed) for other in by_arm if other != lead]
    return Comparison(confidence, tuple(rows), tuple(versus))


def _row(runs: Sequence[ArmRun], confidence: float, seed: int) -> ArmRow:
    arm = runs[0].arm
    final, initial = _pooled(runs, "final"), _pooled(runs, "initial")
    means = [_mean(run.final) for run in runs]
    gain, span = None, None
    if arm != SEED:
        gain = paired_gain(initial, final, confidence=confidence, seed=seed)
        span = _span([mean - _mean(run.initial) for mean, run in zip(means, runs, strict=True)], confidence)
    total = sum((run.cost for run in runs), Cost())
    count = len(runs)
    return ArmRow(
        arm,
        "the seed harness under the bare policy" if arm == SEED else ARMS[arm].about,
        count,
        estimate(final, confidence=confidence, seed=seed),
        tuple(means),
        gain,
        span,
        Cost(round(total.rollouts / count), round(total.tokens / count), total.seconds / count),
        sum(run.promoted for run in runs) / count,
        tuple(run.run for run in runs),
    )


def _versus(lead: Sequence[ArmRun], other: Sequence[ArmRun], confidence: float, seed: int) -> Versus:
    gain = paired_gain(_pooled(other, "final"), _pooled(lead, "final"), confidence=confidence, seed=seed)
    differences = [_mean(one.final) - _mean(two.final) for one, two in zip(lead, other, strict=True)]
    return Versus(lead[0].arm, other[0].arm, gain, _span(differences, confidence))


def _span(values: Sequence[float], confidence: float) -> Span:
    mean = float(np.mean(values))
    if len(values) < 2:
        return Span(mean, None, None)
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Span(mean, mean - half, mean + half)


def _mean(scores: Scores) -> float:
    """Mean over problems of the mean over rollouts."""
    return float(np.mean([np.mean(values) for values in scores.values() if len(values)]))


def _pooled(runs: Sequence[ArmRun], side: str) -> dict[str, Sequence[float]]:
    """Scores by seed and problem; each pair is distinct, because seeds split the problems differently."""
    return {f"{run.seed}/{problem}": values for run in runs for problem, values in getattr(run, side).items()}

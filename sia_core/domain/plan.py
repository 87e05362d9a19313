"""Plan a run: most rollouts, problems, and seeds."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sia_core.domain.config import LADDER_ROLLOUTS, MAX_VALIDATIONS, SMOKE_ROLLOUTS, RunConfig
from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Split
from sia_core.domain.task_config import UpdateDefaults

Sizes = Mapping[Split, int]
"""Number of problems of each split."""
SEALED = "sealed"
"""Name of the sealed test's block, from which its seeds derive."""


@dataclass(frozen=True)
class RolloutPlan:
    """Most rollouts of each part of a run; a rejected rewrite or a refused update takes fewer."""

    execute: int
    """Rollouts of a generation's execute phase."""
    gate: int
    """Rollouts of a child's gate."""
    validation: int
    """Rollouts that validate a rewritten harness, including earlier versions that went back to their author."""
    trials: int
    """Rollouts of drafts that an agent plays before it decides."""
    update: int
    """Rollouts of an update of the weights."""
    sealed: int
    """Rollouts of the sealed test."""
    siblings: int

    @property
    def generation(self) -> int:
        """Rollouts of one generation, with both levers pulled for each child."""
        return self.execute + self.siblings * (self.gate + self.validation + self.trials + self.update)


def plan_rollouts(config: RunConfig, update: UpdateDefaults, sizes: Sizes | None = None) -> RolloutPlan:
    """Plan a run on a task with these update defaults.

    Args:
        sizes: problems of each split; None if they are unknown, and taken to be enough.
    """
    config = played(config, update, sizes) if sizes else config
    execute = config.problems * config.rollouts
    # The first round uses the evidence's rollouts, or as many new ones if the evidence is of another pair.
    anchors = 2 * update.anchors * config.gate_rollouts
    # An agent that branches from another node than the executed one has that node's rollouts played too.
    each = SMOKE_ROLLOUTS * (2 if config.plays_drafts else 1)
    return RolloutPlan(
        execute=execute,
        # A child that is better also meets the best earlier node; most gates end after a part of the blocks.
        gate=3 * config.gate_problems * config.gate_rollouts if config.levers else 0,
        validation=LADDER_ROLLOUTS + (MAX_VALIDATIONS - 1) * each if "harness" in config.levers else 0,
        trials=config.agent_rollouts if config.plays_drafts and config.levers else 0,
        update=update.rounds * execute + anchors if "weights" in config.levers else 0,
        # Without levers the final candidate is the seed, and its rollouts are played once.
        sealed=(2 if config.levers else 1) * config.test_problems * config.test_rollouts,
        siblings=config.siblings,
    )


def played(config: RunConfig, update: UpdateDefaults, sizes: Sizes) -> RunConfig:
    """Return the configuration with the numbers of problems that splits of these sizes allow."""
    training = sizes["train"] - update.anchors
    return config.model_copy(
        update={
            # Groups that reuse states share problems, and are as many as the plan says.
            "problems": config.problems if config.reuse_states else min(config.problems, training),
            "gate_problems": min(config.gate_problems, sizes["gate"]),
            "test_problems": min(config.test_problems, sizes["test"]),
        }
    )


def shuffled(ids: Iterable[str], seed: int, split: Split) -> list[str]:
    """Order the problem ids of a split as a run with this seed uses them."""
    order = list(ids)
    random.Random(derive_seed(seed, split)).shuffle(order)
    return order


@dataclass(frozen=True)
class Shape:
    """Layout of the rollouts of an execute phase."""

    problems: int
    rollouts: int
    """Rollouts of each problem."""
    reason: str = ""
    """Reason for a difference from the configuration; empty if there is none."""


FEW = 2
"""Rollouts of each problem if more would say the same; a single one would not show a change of that."""
SAME = 0.1
"""Share of the scores' variance within problems up to which rollouts of one problem say the same."""


def shape_of(config: RunConfig, within: float | None, available: int) -> Shape:
    """Lay out as many rollouts as the configuration asks for, given how a candidate's scores vary.

    The variance of the mean over P problems of k rollouts is (between + within / k) / P. If nearly all variance is
    between problems, only more problems make the score more certain.

    Args:
        within: share of the variance that lies within problems, in earlier rollouts; None without any.
        available: number of training problems.
    """
    asked = Shape(config.problems, config.rollouts)
    if config.reuse_states or within is None or within > SAME or config.rollouts <= FEW:
        return asked
    problems = min(config.problems * config.rollouts // FEW, available)
    if problems <= config.problems:
        return asked
    why = f"rollouts of one problem differ little (share of variance within problems {within:.2f})"
    return Shape(problems, FEW, f"{problems} problems x {FEW}, for {why}")


def deal(order: Sequence[str], block: int, count: int, start: int | None = None) -> list[str]:
    """Deal one block; blocks of one size share no problem until all have been used.

    Args:
        start: place of the first problem, for blocks of several sizes.
    """
    start = block * count if start is None else start
    return [order[(start + offset) % len(order)] for offset in range(min(count, len(order)))]

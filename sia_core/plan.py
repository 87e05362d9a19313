"""What a run plays: how many rollouts at most, which problems, under which seeds."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sia_core.config import LADDER_ROLLOUTS, RunConfig
from sia_core.hashing import derive_seed
from sia_core.rollout import Split
from sia_core.task_config import UpdateDefaults

SEALED = "sealed"
"""Name of the sealed test's block: what its seeds derive from."""


@dataclass(frozen=True)
class RolloutPlan:
    """Rollouts at most; a rewrite that is rejected, or an update that is refused, takes fewer."""

    execute: int
    """Of a generation."""
    gate: int
    """Of a child."""
    validation: int
    """Of a rewritten harness."""
    update: int
    """Of an update of the weights."""
    sealed: int
    """Of the test at the end."""
    siblings: int

    @property
    def generation(self) -> int:
        """Of one generation, with both levers pulled for each child."""
        return self.execute + self.siblings * (self.gate + self.validation + self.update)


def plan_rollouts(config: RunConfig, update: UpdateDefaults) -> RolloutPlan:
    """The plan of a run on a task with these update defaults."""
    execute = config.problems * config.rollouts
    # The first round is the evidence's rollouts, or as many new ones where these are of another pair.
    anchors = 2 * update.anchors * config.gate_rollouts
    return RolloutPlan(
        execute=execute,
        # A child that is better also meets the best earlier node; most gates end after a part of the blocks.
        gate=3 * config.gate_problems * config.gate_rollouts if config.levers else 0,
        validation=LADDER_ROLLOUTS if "harness" in config.levers else 0,
        update=update.rounds * execute + anchors if "weights" in config.levers else 0,
        sealed=2 * config.test_problems * config.test_rollouts,
        siblings=config.siblings,
    )


def shuffled(ids: Iterable[str], seed: int, split: Split) -> list[str]:
    """Problem ids of a split in the order in which a run of that seed deals them out."""
    order = list(ids)
    random.Random(derive_seed(seed, split)).shuffle(order)
    return order


def deal(order: Sequence[str], block: int, count: int) -> list[str]:
    """One block of them; blocks share no problem until all have been used."""
    start = block * count
    return [order[(start + offset) % len(order)] for offset in range(min(count, len(order)))]


def rollout_seed(seed: int, split: Split, block: str, problem: str, number: int) -> int:
    """Seed of one rollout of a problem, in a run of that seed."""
    return derive_seed(seed, split, block, problem, number)

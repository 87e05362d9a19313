"""Decide if an algorithm can work on a batch, and which algorithm fits the batch best. Loads no torch.

`refuse` refuses only updates that cannot work. `suggest` names the best algorithm that `refuse` accepts.
"""

from collections.abc import Sequence

from sia_core.domain.rollout import Rollout
from sia_core.weights.algorithms import ALGORITHMS, Needs
from sia_core.weights.groups import SAME_SCORE, BatchStats, batch_stats, is_constant, make_groups, recorded
from sia_core.weights.preferences import make_labels, make_pairs

MANY_TURNS = 4
"""Turns per rollout from which a value function can distinguish early states from late ones."""
NEAR_FLOOR = 0.05
"""A mean within this share of the way from the lowest to the best score counts as near the floor."""
ABLE = 0.75
"""A mean beyond this share counts as a policy that solves the problems already."""


def refuse(
    rollouts: Sequence[Rollout],
    algorithm: str,
    temperature: float,
    *,
    margin: float | None = None,
    threshold: float | None = None,
) -> str | None:
    """Return the reason why an update on these rollouts cannot work, or None when it can.

    Args:
        rollouts: rollouts of any problems; unscored ones do not count.
        algorithm: a name in ALGORITHMS.
        temperature: divisor of the logits in the trainer.
        margin: margin of dpo's pairs.
        threshold: threshold of best_of_n's and kto's good rollouts.
    """
    if algorithm not in ALGORITHMS:
        return f"no algorithm {algorithm}: there are {', '.join(ALGORITHMS)}"
    needs, stats = ALGORITHMS[algorithm].needs, batch_stats(rollouts)
    return (
        _too_little(stats, needs, algorithm)
        or _unrecorded(rollouts, stats, needs, algorithm)
        or _constant(stats, needs, algorithm)
        or _unsuited(rollouts, stats, algorithm, margin, threshold)
        or _other_temperature(stats, temperature)
    )


def _too_little(stats: BatchStats, needs: Needs, algorithm: str) -> str | None:
    if stats.groups < needs.groups:
        return f"{stats.groups} groups of scored rollouts: {algorithm} needs at least {needs.groups}"
    if needs.max_groups is not None and stats.groups > needs.max_groups:
        return f"{stats.groups} problems: {algorithm} is for at most {needs.max_groups}"
    if stats.size < needs.size:
        return f"{stats.size:.1f} rollouts per problem: {algorithm} needs at least {needs.size}"
    return None


def _unrecorded(rollouts: Sequence[Rollout], stats: BatchStats, needs: Needs, algorithm: str) -> str | None:
    """Refuse rollouts that recorded text alone: tokenising it again may not give the sampled tokens."""
    if stats.recorded == "logprobs" or (stats.recorded == "ids" and not needs.logprobs):
        mixed = [rollout for group in make_groups(rollouts) if not is_constant(group) for rollout in group]
        usable = ("logprobs",) if needs.logprobs else ("logprobs", "ids")
        if mixed and needs.mixed and not any(recorded(rollout) in usable for rollout in mixed):
            return "no rollout of a mixed group has token ids and logprobs"
        return None
    if stats.recorded == "ids":
        without = ", ".join(name for name, one in ALGORITHMS.items() if not one.needs.logprobs)
        return f"no rollout has logprobs, which {algorithm} needs; {without} do without"
    return "no rollout has token ids and logprobs"


def _constant(stats: BatchStats, needs: Needs, algorithm: str) -> str | None:
    # kto can learn from one rollout per problem; from constant groups it learns only which problems are easy.
    if stats.mixed == 0 and (needs.mixed or (algorithm == "kto" and stats.size >= 2)):
        return f"all {stats.groups} groups are constant: no rollout did better than another of its problem"
    if not needs.mixed and stats.best - stats.low <= SAME_SCORE and not (needs.steps and stats.steps_vary):
        return f"all rollouts score {stats.mean:.4g}: {algorithm} has nothing to tell apart"
    return None


def _unsuited(
    rollouts: Sequence[Rollout], stats: BatchStats, algorithm: str, margin: float | None, threshold: float | None
) -> str | None:
    needs = ALGORITHMS[algorithm].needs
    if needs.skew is not None and not stats.skew > needs.skew:
        return f"the scores' skew is {stats.skew:.2f}: {algorithm} is for skew above {needs.skew:g}; try rloo"
    if needs.steps and not stats.steps_vary and stats.turns < MANY_TURNS:
        return (
            f"no rewards of single turns and {stats.turns:.1f} turns per rollout: {algorithm} needs `step/N` metrics "
            f"from the verifier, or at least {MANY_TURNS} turns"
        )
    if algorithm == "dpo" and not make_pairs(rollouts, margin):
        return "no two rollouts of a problem differ by more than the margin"
    if algorithm == "kto" and len({good for _, good in make_labels(rollouts, threshold)}) < 2:
        return f"all rollouts are on one side of the threshold {threshold}: kto needs rollouts on both sides"
    if algorithm == "best_of_n" and threshold is not None and stats.best < threshold:
        return f"the best score is {stats.best:.4g}, below the threshold {threshold:g}: nothing to clone"
    return None


def _other_temperature(stats: BatchStats, temperature: float) -> str | None:
    if set(stats.temperatures) != {temperature}:
        return f"rollouts were sampled at temperature {list(stats.temperatures)}, the update is for {temperature}"
    return None


def suggest(rollouts: Sequence[Rollout]) -> tuple[str | None, str]:
    """Return the algorithm that fits a batch best, or None, and the reason."""
    stats = batch_stats(rollouts)
    for name, reason in _candidates(stats):
        temperature = stats.temperatures[0] if len(stats.temperatures) == 1 else float("nan")
        if refuse(rollouts, name, temperature) is None:
            return name, reason
    return None, refuse(rollouts, "dr_grpo", stats.temperatures[0] if stats.temperatures else 1.0) or "nothing fits"


def _candidates(stats: BatchStats) -> list[tuple[str, str]]:
    """List algorithms in order of preference, with reasons; the first that is not refused is taken."""
    span = stats.best - stats.low
    share = (stats.mean - stats.low) / span if span > SAME_SCORE else 0.0
    found = []
    if stats.recorded == "logprobs":
        if stats.steps_vary:
            found.append(("ppo", "turns earn rewards of their own"))
        skewed = f"{stats.groups} problems with {stats.size:.0f} rollouts each and skew {stats.skew:.1f}"
        found.append(("entropic", f"{skewed}: the best counts"))
    if share < NEAR_FLOOR:
        found.append(
            ("best_of_n", f"the mean {stats.mean:.3g} is near the floor {stats.low:.3g}, the best {stats.best:.3g}")
        )
    if stats.recorded == "logprobs":
        if share > ABLE:
            found.append(("reinforce_pp", f"the mean {stats.mean:.3g} is near the best: hold on to the base model"))
        if stats.size <= 4:
            found.append(("rloo", f"{stats.size:.1f} rollouts per problem: a leave-one-out baseline"))
        found.append(("dr_grpo", f"{stats.mixed} of {stats.groups} groups are mixed"))
        found.append(("rloo", "a single problem whose rollouts differ"))
    found.append(("dpo", "rollouts of a problem can be ranked, and nothing else is to be had"))
    found.append(("kto", "good and poor rollouts that cannot be compared within a problem"))
    if stats.recorded == "logprobs":
        found.append(("ppo", f"{stats.turns:.1f} turns per rollout and no groups"))
    return found

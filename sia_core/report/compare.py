"""Compare runs: wins, losses and ties on common sealed problems, cost of a point, different settings.

Each run is compared with the first. Only scores of the sealed test are compared, because those of the gate helped to
choose a candidate; gains are computed as in the sealed test (`search.gate.sealed_gain`). Runs with other seeds may have
other sealed problems, so a pair is compared on the problems that both have.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sia_core.agents.quote import elide
from sia_core.domain.budget import read_spent, total
from sia_core.domain.errors import RecordError, UsageError
from sia_core.domain.lineage import Cost
from sia_core.domain.stats import Estimate, Gain, Scores
from sia_core.record.arms import SCORES
from sia_core.record.phases import SealedDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag
from sia_core.report.charts import difference_chart
from sia_core.report.command import settings
from sia_core.report.decided import stand_in_lines
from sia_core.report.html import render
from sia_core.report.problems import Pair, Tally, cut_note, pair_rows, pair_up, tally
from sia_core.search.gate import sealed_gain

POINT = 0.01
"""Score gain that counts as one point in the cost of a point."""
_TAGS = {
    "policy digest": Tag.POLICY_DIGEST,
    "sandbox tier": Tag.SANDBOX_TIER,
    "missing of the sandbox tier": Tag.SANDBOX_MISSING,
    "SIA": Tag.VERSION,
}
"""Tags of a run that are compared beside its configuration, by label."""


@dataclass(frozen=True)
class Price:
    """Cost of a point of the sealed gain, without the sealed test; `RunRow.point` is None if no gain was shown."""

    rollouts: float
    tokens: float
    minutes: float
    """Wall clock of the whole run."""
    dollars: float


@dataclass(frozen=True)
class RunRow:
    """A finished run."""

    name: str
    run_id: str
    experiment_id: str
    score: Estimate
    """Score of the final candidate, on all its sealed problems."""
    gain: Gain
    """Gain over the run's own seed candidate."""
    node: int
    """Node of the final candidate; 0 when nothing was promoted."""
    promoted: int
    cost: Cost
    """Cost of all generations."""
    dollars: float
    wall_s: float | None
    """Wall clock of the run; None if it was not recorded."""
    point: Price | None
    stand_ins: tuple[str, ...]
    """Lines that describe decisions of `rules` in place of the run's agent."""


@dataclass(frozen=True)
class Versus:
    """`run` minus `other`, on the sealed problems of both."""

    run: str
    other: str
    tally: Tally
    gain: Gain | None
    """None if the runs share too few problems for an interval."""
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Difference:
    """A setting that differs between the runs."""

    setting: str
    values: tuple[str, ...]
    """Value of each run, in order."""


@dataclass(frozen=True)
class RunComparison:
    """Finished runs of one task."""

    task: str
    confidence: float
    rows: tuple[RunRow, ...]
    versus: tuple[Versus, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class _Side:
    run: RunRecord
    tags: Mapping[str, str]
    config: Mapping[str, str]
    confidence: float
    seed: Scores
    final: Scores
    test: SealedDone


def compare_runs(runs: Sequence[RunRecord]) -> RunComparison:
    """Compare finished runs of one task.

    Raises:
        UsageError: fewer than two runs, a run named twice, different tasks, or no sealed problem in common.
        RecordError: a run has no sealed test yet.
    """
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise UsageError("a comparison takes at least two runs", where="sia compare", hint="see: sia status")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError("is named twice", where=twice, hint="name another run: sia status")
    sides = [_read(run) for run in runs]
    _check_same_task(sides)
    first, *others = sides
    confidence = first.confidence
    return RunComparison(
        task=first.tags[Tag.TASK],
        confidence=confidence,
        rows=tuple(_row(side) for side in sides),
        versus=tuple(_versus(side, first, confidence) for side in others),
        differences=tuple(_differences(sides)),
    )


def _read(run: RunRecord) -> _Side:
    test, scores = run.phase(SealedDone), run.get_json(SCORES)
    if test is None:
        raise RecordError("has no sealed test yet", where=run.name, hint=f"resume it: sia resume {run.name}")
    if scores is None:
        raise RecordError("has no sealed scores by problem: its version of SIA did not record them", where=run.name)
    config = run.config
    kept = settings(config)
    return _Side(run, run.tags, kept, config.confidence, scores["seed"], scores["final"], test)


def _check_same_task(sides: Sequence[_Side]) -> None:
    first = sides[0]
    for side in sides[1:]:
        where = f"{first.run.name} and {side.run.name}"
        tasks = [one.tags[Tag.TASK] for one in (first, side)]
        digests = [one.tags[Tag.TASK_DIGEST] for one in (first, side)]
        if tasks[0] != tasks[1]:
            what = f"are runs of different tasks, {tasks[0]} and {tasks[1]}: their scores mean different things"
            raise UsageError(what, where=where, hint="compare runs of one task: sia status")
        if digests[0] != digests[1]:
            what = f"are of two versions of task {tasks[0]} ({digests[0][:12]} and {digests[1][:12]})"
            raise UsageError(what, where=where, hint="verifier or problems changed in between: run one again")


def _row(side: _Side) -> RunRow:
    nodes = side.run.nodes()
    cost = sum((node.cost for node in nodes), Cost())
    kept = side.run.get_json("spending.json")
    dollars = total(read_spent(kept["roles"])).dollars if kept else 0.0
    wall = float(kept["wall_seconds"]) if kept else None
    gain = side.test.gain
    return RunRow(
        name=side.run.name,
        run_id=side.run.run_id,
        experiment_id=side.run.experiment_id,
        score=side.test.final,
        gain=gain,
        node=side.test.node,
        promoted=sum(node.promoted for node in nodes[1:]),
        cost=cost,
        dollars=dollars,
        wall_s=wall,
        point=_price(gain, cost, dollars, wall or 0.0),
        stand_ins=tuple(stand_in_lines(nodes)),
    )


def _price(gain: Gain, cost: Cost, dollars: float, wall_s: float) -> Price | None:
    if gain.low <= 0:
        return None
    points = gain.mean / POINT
    return Price(cost.rollouts / points, cost.tokens / points, wall_s / 60 / points, dollars / points)


def _versus(side: _Side, other: _Side, confidence: float) -> Versus:
    pairs = pair_up(other.final, side.final)
    if not pairs:
        raise UsageError(
            "share no sealed problem",
            where=f"{other.run.name} and {side.run.name}",
            hint="runs with the same --seed and --test-problems are sealed on the same problems",
        )
    gain = sealed_gain(other.final, side.final, confidence) if len(pairs) > 1 else None
    return Versus(side.run.name, other.run.name, tally(pairs), gain, tuple(pairs))


def _differences(sides: Sequence[_Side]) -> Iterator[Difference]:
    found = [{**side.config, **{name: side.tags.get(tag) or "none" for name, tag in _TAGS.items()}} for side in sides]
    for name in found[0]:
        values = tuple(one[name] for one in found)
        if len(set(values)) > 1:
            yield Difference(name, values)


RUN_COLUMNS = (
    *("run", "sealed score", "gain over its seed", "node", "promoted", "rollouts", "tokens", "minutes", "dollars"),
    *("rollouts a point", "tokens a point"),
)
VERSUS_COLUMNS = ("run", "against", "problems", "wins", "losses", "ties", "difference")


def run_rows(found: RunComparison) -> list[tuple[str, ...]]:
    """Format each run as a row, in RUN_COLUMNS."""
    return [
        (
            row.name,
            str(row.score),
            str(row.gain),
            str(row.node),
            str(row.promoted),
            f"{row.cost.rollouts:,}",
            f"{row.cost.tokens:,}",
            "-" if row.wall_s is None else f"{row.wall_s / 60:.1f}",
            f"{row.dollars:.2f}",
            "no gain shown" if row.point is None else f"{row.point.rollouts:,.0f}",
            "-" if row.point is None else f"{row.point.tokens:,.0f}",
        )
        for row in found.rows
    ]


def versus_rows(found: RunComparison) -> list[tuple[str, ...]]:
    """Format each pair as a row, in VERSUS_COLUMNS."""
    return [
        (
            one.run,
            one.other,
            str(len(one.pairs)),
            *(str(count) for count in (one.tally.wins, one.tally.losses, one.tally.ties)),
            "too few problems" if one.gain is None else str(one.gain),
        )
        for one in found.versus
    ]


def notes(found: RunComparison) -> Iterator[str]:
    """Yield the decisions made in place of a run's agent, then notes that explain the columns."""
    yield from (f"{row.name}: {line}" for row in found.rows for line in row.stand_ins)
    yield (
        f"two-sided {found.confidence:.0%} intervals over problems, of these runs: "
        "another run with the same settings may differ (sia arms repeats runs over seeds)"
    )
    if len(found.versus) > 1:
        yield f"each of the {len(found.versus)} differences has its own interval, not corrected for their number"
    yield f"a point is {POINT:g} of score gained over the run's own seed candidate; the sealed test is not in its cost"
    alone = {row.name: row.score.problems for row in found.rows}
    if any(len(one.pairs) < max(alone[one.run], alone[one.other]) for one in found.versus):
        yield "the runs were sealed on different problems: differences are over common ones, scores over all of each"


def compare_page(found: RunComparison, link: str | None) -> str:
    """The page; `link` is MLflow's own comparison of the runs, if its server is up."""
    return render(
        "compare",
        found=found,
        names=[row.name for row in found.rows],
        link=link,
        run_columns=RUN_COLUMNS,
        run_rows=run_rows(found),
        versus_columns=VERSUS_COLUMNS,
        versus_rows=versus_rows(found),
        pairs=[
            {
                "run": one.run,
                "other": one.other,
                "tally": one.tally,
                "chart": difference_chart(
                    f"difference-{number}",
                    f"{one.run} minus {one.other} by problem",
                    [pair.difference for pair in one.pairs],
                ),
                "rows": pair_rows(one.pairs),
                "cut": cut_note(len(one.pairs)),
            }
            for number, one in enumerate(found.versus, 1)
        ],
        differences=[(one.setting, *(elide(value, 300) for value in one.values)) for one in found.differences],
        notes=list(notes(found)),
    )

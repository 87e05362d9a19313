"""Validate a rewritten harness on the ladder of rungs, before it meets its parent at the gate.

The rungs come in order of cost, and the first rejection ends the climb. `static` reads the files, `import` and
`contract` run the harness alone in a sandbox of this machine, `smoke`, `activation` and `minibatch` play training
problems through the session's engine. The rungs of VALIDATION are climbed while the agent still decides
(`sia_core.loop.workbench`), so that a rejected rewrite goes back to its author and costs no generation. `minibatch`
follows once the decision is made.

Each rung's result is stored at once as an artifact of the generation, by the digest of the rewrite, and reused when the
rewrite climbs again or the run is resumed. Rollouts come from the journal.

Smoke rollouts are twins of the parent's (`Unit.twin`), with the same problems and randomness. Twins of rollouts that
the decision cites come first, because the change most likely shows there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean

from sia_core.agents import activation, static
from sia_core.agents.evidence import scores_by_problem
from sia_core.agents.trial import messages
from sia_core.domain.candidate import Candidate
from sia_core.domain.config import MINIBATCH_PROBLEMS, MINIBATCH_ROLLOUTS, SMOKE_ROLLOUTS
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read
from sia_core.domain.lineage import SEED_NODE, Cost, Decision, LadderReport, Node, RungResult
from sia_core.domain.rollout import SPLITS, Rollout, Unit
from sia_core.domain.stats import Scores
from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.worker import RolloutRunner
from sia_core.loop.rollouts import cost_of, executed_shape, pick_problems, plan_units, roll_out, training_block
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord
from sia_core.record.phases import AnalyzeDone, ExecuteDone
from sia_core.search.gate import most_gain

CITED = 2
"""Maximum number of smoke rollouts that the decision cites; cited rollouts are mostly failures."""
CONTRACT_PROBLEMS = 2
FUTILITY = 0.95
"""Confidence of the upper bound of the gain that must lie below 0 for a child to be given up."""
ANSWER_CHARS = 24
"""Shortest private text that is searched for in files: shorter texts may occur by chance."""
READING = ("static", "import", "contract")
"""Rungs that need no rollout."""
VALIDATION = (*READING, "smoke", "activation")
"""Rungs that a rewrite has to pass to be accepted as a decision."""


@dataclass(frozen=True)
class Climb:
    """A rewrite and everything that its rungs need."""

    session: Session
    generation: GenerationRecord
    decision: Decision
    parent: Node
    child: Harness
    counted: set[str] = field(default_factory=set)
    """Keys of rollouts that this generation has already counted, including those of the execute phase."""

    def __post_init__(self) -> None:
        if self.generation.phase(ExecuteDone) is not None:
            self.counted.update(rollout.unit.key for rollout in self.generation.rollouts("train"))
        if self.generation.phase(AnalyzeDone) is not None:
            self.counted.update((self.generation.get_json("drafts.json") or {}).get("counted", ()))

    @property
    def parent_harness(self) -> Harness:
        """The harness that was rewritten."""
        return self.session.run.harness(self.parent.candidate.harness)

    @property
    def candidate(self) -> Candidate:
        """The child with the parent's adapter."""
        return Candidate(self.child.digest, self.parent.candidate.adapter)


def climb(it: Climb) -> LadderReport:
    """Try a rewrite on every rung until one rejects it, and store the report as `ladder.json`.

    Raises:
        LeakError: the rewrite, or the output of a rung, contains a canary of the task.
        SandboxError: no sandbox is available.
    """
    report = climb_rungs(it, tuple(RUNGS))
    it.generation.put_json("ladder.json", asdict(report))
    return report


def climb_rungs(it: Climb, names: Sequence[str]) -> LadderReport:
    """Try a rewrite on some of the rungs until one rejects it; see `climb` for errors."""
    session = it.session
    session.task.canaries.check_files(it.child.files, f"generation {it.generation.index}, rewritten harness")
    session.run.put_harness(it.child)
    rungs: list[RungResult] = []
    for name in names:
        known = _stored(it, name)
        rungs.append(known or _put(it, RUNGS[name](it)))
        if known is None or not known.passed:
            # For a draft that was tried, the first rungs were reported before.
            session.reporter.say(f"rung {name}: {'passed' if rungs[-1].passed else 'rejected'}: {rungs[-1].reason}")
        if not rungs[-1].passed:
            break
    return LadderReport(it.child.digest, tuple(rungs))


def climb_first(session: Session, harness: Harness) -> LadderReport:
    """Try a first harness on the rungs that need no parent, without smoke, and store nothing."""
    session.task.canaries.check_files(harness.files, "first harness")
    allowed = static.Allowed.of(Harness.from_files(_PLAIN).config, session.task.config.rewrite)
    rungs = [static.check(harness, None, allowed, answers=_answers(session))]
    with closing(RolloutRunner(session.task, session.config.sandbox)) as runner:
        if rungs[-1].passed:
            rungs.append(check_import(runner, harness))
        if rungs[-1].passed:
            problems = pick_problems(session, "train", 0, CONTRACT_PROBLEMS)
            rungs.append(check_contract(runner, session.task, problems, harness, None))
    return LadderReport(harness.digest, tuple(rungs))


_PLAIN = {"harness.toml": b'name = "plain"', "agent.py": b""}


def _static(it: Climb) -> RungResult:
    nodes = it.session.run.nodes()
    first = it.session.run.harness(nodes[SEED_NODE].candidate.harness)
    allowed = static.Allowed.of(first.config, it.session.task.config.rewrite)
    rejected = list(_rejected(it, nodes))
    return static.check(it.child, it.parent_harness, allowed, answers=_answers(it.session), rejected=rejected)


def _import(it: Climb) -> RungResult:
    with closing(RolloutRunner(it.session.task, it.session.config.sandbox)) as runner:
        return check_import(runner, it.child)


def _contract(it: Climb) -> RungResult:
    task = it.session.task
    problems = pick_problems(it.session, "train", it.generation.index - 1, CONTRACT_PROBLEMS)
    with closing(RolloutRunner(task, it.session.config.sandbox)) as runner:
        return check_contract(runner, task, problems, it.child, it.parent_harness)


def _smoke(it: Climb) -> RungResult:
    rollouts = twins(it)
    judged = [rollout for rollout in rollouts if rollout.score is not None]
    failures = Counter(f"{one.failure.kind}: {one.failure.reason}" for one in judged if one.failure is not None)
    grouped = [f"{count} x {reason}" for reason, count in failures.most_common()]
    failed = sum(failures.values())
    metrics = {"failed": failed, "unscored": len(rollouts) - len(judged), "rollouts": len(rollouts)}
    rejected = bool(judged) and failed == len(judged)
    reason = f"{failed} of {len(judged)} rollouts failed"
    if rejected:
        reason = f"every smoke rollout failed: {'; '.join(grouped)}"[:1000]
    return RungResult("smoke", not rejected, reason, tuple(grouped), metrics, cost=_cost(it, rollouts))


def _activation(it: Climb) -> RungResult:
    parents = roll_out(it.session, it.parent.candidate, _parent_units(it), "the parent's smoke rollouts")
    by_key = {rollout.unit.key: rollout for rollout in parents}
    changed = activation.changes(it.parent_harness, it.child)
    told = [twin for twin in twins(it) if twin.score is not None]
    sights = [activation.sight(changed, twin, _scored(by_key[twin.unit.twin or ""])) for twin in told]
    shares = activation.shares(sights)
    active = round(shares["active"] * len(told))
    passed = bool(active) or not told
    reason = f"the change shows in {active} of {len(told)} rollouts"
    if not passed:
        reason = (
            f"no-op: the changed lines did not run in any of {len(told)} rollouts, and nothing differs from the parent"
        )
    details = (
        f"changed: {changed}",
        f"ran in {shares['ran']:.0%}, behaviour differs from the parent's in {shares['differs']:.0%} of rollouts",
    )
    return RungResult("activation", passed, reason, details, shares, cost=_cost(it, parents))


def _minibatch(it: Climb) -> RungResult:
    session, index = it.session, it.generation.index
    shape = executed_shape(it.generation)
    count = min(MINIBATCH_PROBLEMS, shape.problems)
    named = {*it.decision.fixes, *it.decision.risks}
    block = training_block(session, index - 1, shape)
    problems = sorted(block, key=lambda problem: problem not in named)[:count]  # Problems of the prediction come first.
    each = min(MINIBATCH_ROLLOUTS, shape.rollouts)
    sides, cost, said = [], Cost(), ""
    for name, candidate in {"parent": it.parent.candidate, "child": it.candidate}.items():
        # The block of the execute phase: if the parent was executed, its rollouts exist.
        units = plan_units(session, candidate, "train", problems, each, f"{index}/execute")
        rollouts = roll_out(session, candidate, units, f"minibatch, {name}")
        sides.append(scores_by_problem(rollouts))
        cost += _cost(it, rollouts)
        if name == "child":
            it.generation.put_rollouts("minibatch", rollouts)
            said = "; ".join(messages(rollouts))
    if len(sides[0].keys() & sides[1].keys()) < 2:
        return RungResult("minibatch", True, "too few problems to tell: left to the gate", cost=cost)
    mean, upper, played = most_gain(sides[0], sides[1], FUTILITY, session.task.config.score_range[0])
    metrics = {"gain": mean, "upper": upper, "problems": played, **_predicted(it, *sides)}
    futile = upper < 0
    words = f"{mean:+.4f} on {played} problems, at most {upper:+.4f} at {FUTILITY:.0%}"
    why = f"futile: gain {words}{f'; its rollouts: {said}' if said else ''}"
    reason = why if futile else f"gain {words}: left to the gate"
    return RungResult("minibatch", not futile, reason, metrics=metrics, cost=cost)


def _predicted(it: Climb, parent: Scores, child: Scores) -> dict[str, int]:
    """Count which problems became better or worse, among all played and among those that the decision names."""
    means = {problem: (fmean(parent[problem]), fmean(child[problem])) for problem in parent.keys() & child.keys()}
    better = {problem for problem, (before, after) in means.items() if after > before}
    worse = {problem for problem, (before, after) in means.items() if after < before}
    fixes, risks = ({*named} & means.keys() for named in (it.decision.fixes, it.decision.risks))
    return {
        "played": len(means),
        "better": len(better),
        "worse": len(worse),
        "fixes": len(fixes),
        "fixes_right": len(fixes & better),
        "risks": len(risks),
        "risks_right": len(risks & worse),
    }


RUNGS: Mapping[str, Callable[[Climb], RungResult]] = {
    "static": _static,
    "import": _import,
    "contract": _contract,
    "smoke": _smoke,
    "activation": _activation,
    "minibatch": _minibatch,
}


def _parent_units(it: Climb) -> list[Unit]:
    """Choose the parent's units for smoke rollouts: some cited ones, then others of the execute phase."""
    session, index = it.session, it.generation.index
    shape = executed_shape(it.generation)
    problems = training_block(session, index - 1, shape)
    block = plan_units(session, it.parent.candidate, "train", problems, shape.rollouts, f"{index}/execute")
    cited = set(it.decision.cites)
    chosen = [unit for unit in block if unit.key in cited][:CITED]
    seen = Counter(unit.problem for unit in chosen)
    # Each problem gets one unit before any gets a second.
    others = sorted((unit for unit in block if unit not in chosen), key=lambda unit: seen[unit.problem])
    for unit in others:
        if len(chosen) < SMOKE_ROLLOUTS and seen[unit.problem] <= min(seen[problem] for problem in problems):
            chosen.append(unit)
            seen[unit.problem] += 1
    return chosen


def twins(it: Climb) -> list[Rollout]:
    """Return the smoke rollouts of the rewrite."""
    candidate = it.candidate
    units = [replace(unit, harness=candidate.harness, twin=unit.key) for unit in _parent_units(it)]
    return roll_out(it.session, candidate, units, "smoke test")


def _scored(rollout: Rollout) -> Rollout | None:
    """Return the rollout, or None if it is unscored and cannot be compared."""
    return rollout if rollout.score is not None else None


def _cost(it: Climb, rollouts: Sequence[Rollout]) -> Cost:
    """Return the cost of the rollouts that this generation has not yet counted."""
    new = [rollout for rollout in rollouts if rollout.unit.key not in it.counted]
    it.counted.update(rollout.unit.key for rollout in new)
    return cost_of(new)


def _rejected(it: Climb, nodes: Sequence[Node]) -> Iterator[static.Rejected]:
    """Yield earlier rewrites that lost to their parent under the same weights, at minibatch or gate."""
    for node in nodes:
        if node.parent is None or node.lever not in ("harness", "both"):
            continue
        lost = node.lever == "harness" and node.gate is not None and not node.promoted and not node.gate.void
        futile = bool(node.draft) and node.failure.startswith("minibatch:")
        if not (lost or futile) or nodes[node.parent].candidate.adapter != it.parent.candidate.adapter:
            continue  # Under other weights a rewrite may do better, and a repair of a defect is a new try.
        reason = node.failure or (f"gate: {node.gate.reason}" if node.gate else "")
        yield static.Rejected(f"node {node.index}", it.session.run.harness(node.harness), reason)


def _answers(session: Session) -> list[str]:
    """Collect the long texts in the private data of all problems."""
    found: set[str] = set()
    todo = [problem.private for split in SPLITS for problem in session.task.problems(split)]
    while todo:
        one = todo.pop()
        if isinstance(one, str) and len(one.strip()) >= ANSWER_CHARS:
            found.add(one.strip())
        elif isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
    return sorted(found)


def _stored(it: Climb, name: str) -> RungResult | None:
    found = it.generation.get_json(_place(it, name))
    if found is None:
        return None
    it.counted.update(found["counted"])
    return read(RungResult, found["result"])


def _put(it: Climb, result: RungResult) -> RungResult:
    metrics = {f"ladder.{result.rung}.{name}": value for name, value in result.metrics.items()}
    it.generation.log_metrics({**metrics, f"ladder.{result.rung}.passed": float(result.passed)})
    it.generation.put_json(_place(it, result.rung), {"counted": sorted(it.counted), "result": asdict(result)})
    return result


def _place(it: Climb, rung: str) -> str:
    return f"ladder/{it.child.digest}/{rung}.json"

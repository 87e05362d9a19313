"""Plan units and get their records, from the journal if they are done, else from Ray."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sia_core.agents.evidence import scores_by_problem
from sia_core.domain.candidate import Candidate
from sia_core.domain.command import command
from sia_core.domain.errors import ServiceError, TaskError
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Cost, Node
from sia_core.domain.plan import Shape, deal, shape_of, shuffled
from sia_core.domain.rollout import NO_VERDICT, Rollout, Split, Unit
from sia_core.domain.stats import within_share
from sia_core.loop.refusals import Held, note_dialect
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord
from sia_core.record.phases import ExecuteDone
from sia_core.search.states import choose_states


def pick_problems(session: Session, split: Split, block: int, count: int) -> list[str]:
    """Return the problem ids of one block.

    The split is shuffled once by the run's seed and dealt out in blocks, so that blocks share
    no problem until all have been used. Anchor problems are not dealt out.
    """
    return deal(_dealt(session, split), block, count)


def training_block(session: Session, block: int, shape: Shape) -> list[str]:
    """Training problems of a block, which begins where it would if all blocks had the configuration's size."""
    return deal(_dealt(session, "train"), block, shape.problems, start=block * session.config.problems)


def execute_shape(session: Session, node: Node) -> Shape:
    """The layout of a node's execute phase, from the newest rollouts of its candidate: training or gate."""
    within = within_share(scores_by_problem(_seen(session, node)))
    return shape_of(session.config, within, len(_dealt(session, "train")))


def executed_shape(generation: GenerationRecord) -> Shape:
    """Return the layout of a generation's execute phase."""
    phase = generation.phase(ExecuteDone)
    assert phase is not None
    return phase.shape


def _seen(session: Session, node: Node) -> list[Rollout]:
    records = session.run.generations()
    for record in reversed(records):
        phase = record.phase(ExecuteDone)
        if phase is not None and phase.node == node.index:
            return record.rollouts("train")
    made = next((record for record in records if record.index == node.generation), None)
    parts = [] if made is None else [made.sibling(number) for number in range(session.config.siblings)]
    sets = [part.own_rollouts("gate_child") for part in parts if "gate_child" in part.rollout_sets()]
    pair = (node.candidate.harness, node.candidate.adapter)
    return [one for found in sets for one in found if (one.unit.harness, one.unit.adapter) == pair]


def anchor_problems(session: Session) -> list[str]:
    """Return the training problems that test whether updates forget, the same for the whole run.

    Raises:
        TaskError: no problem is left to train on.
    """
    count, problems = session.task.config.update.anchors, _shuffled(session, "train")
    if count >= len(problems):
        raise TaskError(
            f"anchors = {count} leaves none of {len(problems)} training problems",
            where=f"{session.task.path / 'task.toml'}: [update]",
            hint="use fewer anchors",
        )
    return problems[:count]


def plan_groups(
    session: Session,
    candidate: Candidate,
    block: int,
    name: str,
    earlier: Sequence[Rollout],
    shape: Shape | None = None,
) -> list[Unit]:
    """Plan a block of training problems, a group of `config.rollouts` each, or of another shape.

    If the run reuses states, each group starts from an earlier answer to its problem, and a problem gets several
    groups, from several states, if the block has more groups than the task has problems.

    Args:
        block: number of the block of training problems.
        name: text from which the seeds derive.
        earlier: training rollouts of this run.
    """
    config = session.config
    shape = shape or Shape(config.problems, config.rollouts)
    problems = training_block(session, block, shape)
    if not config.reuse_states:
        return plan_units(session, candidate, "train", problems, shape.rollouts, name)
    groups = Counter(problems[number % len(problems)] for number in range(config.problems))
    units = []
    for problem, count in groups.items():
        known = [rollout for rollout in earlier if rollout.unit.problem == problem]
        states = choose_states(known, count, lowest=session.task.config.score_range[0])
        for number in range(count):
            state = states[number % len(states)]
            made = plan_units(session, candidate, "train", [problem], config.rollouts, f"{name}/{number}")
            units += [replace(unit, state=state) for unit in made]
    return units


def plan_units(
    session: Session, candidate: Candidate, split: Split, problems: Sequence[str], rollouts: int, block: str
) -> list[Unit]:
    """Plan the units of one candidate; two candidates with the same block share problems and seeds."""
    return [
        Unit(
            task=session.task.digest,
            harness=candidate.harness,
            policy=session.engine.policy.digest,
            adapter=candidate.adapter,
            split=split,
            problem=problem,
            seed=derive_seed(session.config.seed, split, block, problem, number),
            sampling=session.task.sampling,
        )
        for problem in problems
        for number in range(rollouts)
    ]


def roll_out(
    session: Session, candidate: Candidate, units: Sequence[Unit], label: str, *, executes: bool = False
) -> list[Rollout]:
    """Return the records of all units, in the order of their keys, and run those not in the journal.

    Args:
        executes: True for an execute phase, which stops the run if the policy answers nothing (`refusals`).

    Raises:
        BudgetError: the rollouts would exceed the budget.
        LeakError: a rollout contains a canary of the task.
        PolicyError, ServiceError: see `Engine.run` and `refusals.Held`.
    """
    done = session.journal.get(unit.key for unit in units)
    todo = [unit for unit in units if unit.key not in done]
    harness = session.run.harness(candidate.harness)
    adapter = session.run.adapter(candidate.adapter)
    if todo:
        session.ledger.reserve(label, len(todo))
    session.reporter.progress(label, len(done), len(units))
    held = Held(session, label) if executes and todo and not any(one.turns for one in done.values()) else None
    for rollout in done.values():
        session.task.canaries.check_rollout(rollout)
    for rollout in _played(session.engine.run(_while_affordable(session, todo), harness, adapter), held):
        session.run.record.fence()
        session.ledger.settle(rollout)
        session.task.canaries.check_rollout(rollout)
        done[rollout.unit.key] = rollout
        session.reporter.progress(label, len(done), len(units))
    if todo:
        note_dialect(session)
    if len(done) < len(units):
        session.ledger.check(label)
    return [done[key] for key in sorted(done)]


def require_scored(session: Session, rollouts: Sequence[Rollout], label: str) -> None:
    """Refuse rollouts of which none is scored or the verifier failed on each answer; a resumed run plays them again.

    Raises:
        TaskError: the verifier gave no verdict on any answer.
        ServiceError: another part of the infrastructure failed.
    """
    if any(one.score is not None and (one.failure is None or one.failure.kind not in NO_VERDICT) for one in rollouts):
        return
    session.journal.drop(rollout.unit.key for rollout in rollouts)
    failures = Counter((one.failure.kind, one.failure.reason) for one in rollouts if one.failure is not None)
    ((kind, reason), count) = failures.most_common(1)[0]
    what = f"none of {len(rollouts)} rollouts has a verdict; {count} times {kind}: {reason}"
    if kind not in NO_VERDICT:
        raise ServiceError(what, where=label, hint="sia doctor looks for the cause on this machine")
    again = command("sia", "check", session.task.where)
    raise TaskError(what, where=label, hint=f"fix task.py, then: {again}; a changed task begins a new run")


def unverified_line(session: Session, rollouts: Sequence[Rollout], label: str) -> str:
    """Say on how many answers the verifier raised an error, if on any."""
    reasons = Counter(one.failure.reason for one in rollouts if one.failure and one.failure.kind == "unverified")
    if not reasons:
        return ""
    ((reason, _),) = reasons.most_common(1)
    again = command("sia", "check", session.task.where)
    return (
        f"{label}: the verifier raised an error on {reasons.total()} of {len(rollouts)} answers, which score 0: "
        f"{reason}; {again} may show why"
    )


def _played(rollouts: Iterator[Rollout], held: Held | None) -> Iterator[Rollout]:
    """Yield the rollouts; those of a policy that answers nothing stop the run."""
    for rollout in rollouts:
        yield from [rollout] if held is None else held.take(rollout)
    yield from [] if held is None else held.release()


def _while_affordable(session: Session, units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield the units until the budget is used up; units in flight still end and are kept."""
    for unit in units:
        if session.ledger.used_up():
            return
        yield unit


def training_rollouts(session: Session, before: int) -> list[Rollout]:
    """Return all recorded training rollouts of generations before this one."""
    records = [record for record in session.run.generations() if record.index < before]
    return [rollout for record in records for name in record.training() for rollout in record.rollouts(name)]


def is_stale(rollouts: Sequence[Rollout], candidate: Candidate) -> bool:
    """Return True if some of the rollouts are of another candidate."""
    pair = (candidate.harness, candidate.adapter)
    return any((rollout.unit.harness, rollout.unit.adapter) != pair for rollout in rollouts)


def cost_of(rollouts: Sequence[Rollout]) -> Cost:
    """Return the cost of these rollouts: their number, tokens and seconds."""
    return Cost(
        len(rollouts),
        sum(rollout.tokens for rollout in rollouts),
        round(sum(rollout.seconds for rollout in rollouts), 3),
    )


def _dealt(session: Session, split: Split) -> list[str]:
    ids = _shuffled(session, split)
    return ids[len(anchor_problems(session)) :] if split == "train" else ids


def _shuffled(session: Session, split: Split) -> list[str]:
    """Return the problem ids of a split, shuffled once by the run's seed."""
    return shuffled((problem.id for problem in session.task.problems(split)), session.config.seed, split)

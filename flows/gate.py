"""Play the gate: blocks of fresh problems for parent and child, until the verdict is there or the cap is reached."""

from collections.abc import Sequence

from flows.rollouts import cost_of, pick_problems, plan_units, roll_out
from flows.session import Session
from sia_core.agents.evidence import scores_by_problem
from sia_core.candidate import Candidate
from sia_core.generation import Cost, GateVerdict, Node, champion
from sia_core.hashing import derive_seed
from sia_core.record.generation import GenerationRecord
from sia_core.rollout import Rollout
from sia_core.search.gate import Rules, Sides, growing, judge
from sia_core.search.lineage import rival


def play_gate(
    session: Session,
    generation: GenerationRecord,
    nodes: Sequence[Node],
    parent: Node,
    child: Candidate,
    siblings: int,
) -> tuple[GateVerdict, Cost]:
    """The verdict on a child, and what it took.

    The problems are the generation's own block whatever the looks do: what one gate leaves unplayed no other gets.
    The rival is played only once the child is better than its parent, on the problems played by then.
    """
    config = session.config
    problems = pick_problems(session, "gate", generation.index - 1, config.gate_problems)
    rules = Rules(
        config.gate_rollouts,
        config.confidence,
        siblings,
        config.price,
        config.tolerance,
        session.task.config.score_range[0],
        derive_seed(config.seed, "gate", generation.index),
    )
    other = rival(nodes, parent)
    incumbent = other is not None and other.index == champion(list(nodes)).index
    players = {"parent": parent.candidate, "child": child}
    rollouts: dict[str, list[Rollout]] = {}
    for played in growing(problems):
        flat = [problem for block in played for problem in block]
        while True:
            for name, candidate in players.items():
                rollouts[name] = _play(session, generation, name, candidate, flat)
            sides = _sides(rollouts, other, incumbent)
            verdict = judge(sides, played, len(problems), rules)
            if not verdict.promoted or other is None or "best" in players:
                break
            players["best"] = other.candidate
        if verdict.outcome != "open":
            break
    for name, found in rollouts.items():
        generation.put_rollouts(f"gate_{name}", found)
    return verdict, sum((cost_of(found) for found in rollouts.values()), Cost())


def _play(
    session: Session, generation: GenerationRecord, name: str, candidate: Candidate, problems: Sequence[str]
) -> list[Rollout]:
    """All rollouts of these problems; those of earlier looks come from the journal."""
    config = session.config
    units = plan_units(session, candidate, "gate", problems, config.gate_rollouts, f"{generation.index}/gate")
    label = f"generation {generation.index}: gate, {name}, {len(problems)} problems"
    return roll_out(session, candidate, units, label)


def _sides(rollouts: dict[str, list[Rollout]], other: Node | None, incumbent: bool) -> Sides:
    scores = {name: scores_by_problem(found) for name, found in rollouts.items()}
    best, node = scores.get("best"), other.index if other else 0
    tokens = {name: sum(one.tokens for one in found) / max(len(found), 1) for name, found in rollouts.items()}
    dearness = tokens["child"] / tokens["parent"] if tokens["parent"] else 1.0
    return Sides(scores["parent"], scores["child"], best, node, incumbent, dearness)

"""Run the gate: play blocks of fresh problems with parent and child until a verdict or the cap is reached.

Also compute the gate's terms, which tell the agent in advance what its next child has to reach.
"""

from collections.abc import Sequence
from statistics import fmean

from sia_core.agents.evidence import scores_by_problem
from sia_core.domain.candidate import Candidate
from sia_core.domain.gate_terms import GateTerms
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Cost, GateVerdict, Node, champion
from sia_core.domain.rollout import Rollout
from sia_core.loop.rollouts import cost_of, pick_problems, plan_units, roll_out
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord
from sia_core.search.gate import Rules, Sides, growing, judge, unseen
from sia_core.search.lineage import rival
from sia_core.search.power import detectable, spread_of_gates, spread_of_scores
from sia_core.search.sequential import cut


def play_gate(
    session: Session, generation: GenerationRecord, nodes: Sequence[Node], parent: Node, child: Candidate, siblings: int
) -> tuple[GateVerdict, Cost]:
    """Return the verdict on a child, and its cost.

    The generation's block of problems does not depend on the looks: problems that one gate leaves unplayed go to no
    other. The rival is played only once the child is better than its parent, on the problems played by then.
    """
    config = session.config
    problems = pick_problems(session, "gate", generation.index - 1, config.gate_problems)
    rules = _rules(session, siblings, derive_seed(config.seed, "gate", generation.index))
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


def gate_terms(session: Session, nodes: Sequence[Node], rollouts: Sequence[Rollout]) -> GateTerms:
    """Compute the terms of the next gate, with the spread of earlier gates or else of these rollouts."""
    config, rules = session.config, _rules(session, session.config.siblings)
    scores = scores_by_problem(rollouts)
    jump = unseen(rules.floor, scores)
    spread = spread_of_gates([node.gate for node in nodes if node.gate is not None], jump)
    spread = spread_of_scores(scores, rules.rollouts, jump) if spread is None else spread
    return GateTerms(
        problems=config.gate_problems,
        rollouts=rules.rollouts,
        looks=len(cut(config.gate_problems)),
        confidence=rules.confidence,
        tries=rules.tries,
        level=fmean(map(fmean, scores.values())) - rules.floor,
        gain_per_token_doubling=rules.gain_per_token_doubling,
        tolerance=rules.tolerance,
        detectable=detectable(rules, config.gate_problems, spread, unseen=jump) if spread else None,
    )


def _rules(session: Session, tries: int, seed: int = 0) -> Rules:
    config, lowest = session.config, session.task.config.score_range[0]
    return Rules(
        config.gate_rollouts, config.confidence, tries, config.gain_per_token_doubling, config.tolerance, lowest, seed
    )


def _play(
    session: Session, generation: GenerationRecord, name: str, candidate: Candidate, problems: Sequence[str]
) -> list[Rollout]:
    """Roll a candidate out on these problems; rollouts of earlier looks come from the journal."""
    config = session.config
    units = plan_units(session, candidate, "gate", problems, config.gate_rollouts, f"{generation.index}/gate")
    label = f"generation {generation.index}: gate, {name}, {len(problems)} problems"
    return roll_out(session, candidate, units, label)


def _sides(rollouts: dict[str, list[Rollout]], other: Node | None, incumbent: bool) -> Sides:
    scores = {name: scores_by_problem(found) for name, found in rollouts.items()}
    best, node = scores.get("best"), other.index if other else 0
    tokens = {name: sum(one.tokens for one in found) / max(len(found), 1) for name, found in rollouts.items()}
    token_ratio = tokens["child"] / tokens["parent"] if tokens["parent"] else 1.0
    return Sides(scores["parent"], scores["child"], best, node, incumbent, token_ratio)

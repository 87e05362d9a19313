"""Sealed test: score the final candidate and the seed once, on problems that nothing else has used."""

from dataclasses import asdict

from sia_core.agents.evidence import scores_by_problem
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Cost, champion
from sia_core.domain.plan import SEALED
from sia_core.domain.replies import Replies, count_replies
from sia_core.domain.stats import estimate
from sia_core.loop.rollouts import cost_of, pick_problems, plan_units, require_scored, roll_out
from sia_core.loop.session import Session
from sia_core.record.arms import SCORES
from sia_core.record.phases import SealedDone
from sia_core.search.gate import sealed_gain


def seal(session: Session) -> None:
    """Score the final candidate and the seed on the sealed test problems, once, with separate seeds.

    Report these scores: those of the gate helped to choose the candidate, and are too good on average.
    """
    if session.run.phase(SealedDone) is not None:
        return
    config = session.config
    nodes = session.run.nodes()
    final, seed = champion(nodes), nodes[0]
    problems = pick_problems(session, "test", 0, config.test_problems)
    scores, reports, replies, cost = {}, {}, dict[str, Replies](), Cost()
    for name, candidate in {"final": final.candidate, "seed": seed.candidate}.items():
        units = plan_units(session, candidate, "test", problems, config.test_rollouts, SEALED)
        label = f"sealed test: {name} candidate"
        rollouts = roll_out(session, candidate, units, label)
        require_scored(session, rollouts, label)
        scores[name] = scores_by_problem(rollouts)
        cost = cost_of(rollouts) if name == "final" else cost
        # Pairs, because stored objects lose their order.
        reports[name] = tuple(session.task.report_or_remark("test", rollouts).items())
        replies[name] = count_replies(rollouts)
    session.run.put_json(SCORES, {**scores, "cost": asdict(cost)})
    boot = derive_seed(config.seed, "test")
    estimates = {name: estimate(side, confidence=config.confidence, seed=boot) for name, side in scores.items()}
    gain = sealed_gain(scores["seed"], scores["final"], config.confidence)
    session.run.log_metrics(
        {
            "test.final": estimates["final"].mean,
            "test.seed": estimates["seed"].mean,
            "test.gain": gain.mean,
            "test.gain_low": gain.low,
            "test.gain_high": gain.high,
            **{f"test.replies_{kind}": share for kind, share in replies["final"].shares.items()},
        }
    )
    session.ledger.record(config.generations + 1)
    session.run.complete(
        SealedDone(
            node=final.index,
            candidate=final.candidate,
            final=estimates["final"],
            seed=estimates["seed"],
            gain=gain,
            report=reports if any(reports.values()) else {},
            replies=replies["final"],
        )
    )

"""Format a run's result as rows: one per lineage node, then the sealed test and the task's own figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from sia_core.agents.quote import one_line
from sia_core.domain.budget import HOUR, Budget, read_spent, total
from sia_core.domain.lineage import Node
from sia_core.domain.replies import Replies, reply_lines
from sia_core.record.phases import AnalyzeDone, SealedDone
from sia_core.record.store import RunRecord
from sia_core.report.decided import decided_by

COLUMNS = (
    *("generation", "lever", "decided by", "parent", "score", "gain over parent"),
    *("looks", "promoted", "rollouts", "tokens"),
)


def lineage_rows(nodes: Sequence[Node]) -> list[dict[str, str]]:
    """Return one row per node, whose `score` is on the gate problems of its generation, with interval."""
    return [_row(node, nodes) for node in nodes]


def _row(node: Node, nodes: Sequence[Node]) -> dict[str, str]:
    move = one_line(
        ", ".join(f"{name}={value}" for name, value in (node.decision.knobs if node.decision else {}).items()), 200
    )
    score, gain = _seed_score(nodes) if node.parent is None else "-", "-"
    if node.gate is not None:
        score, gain = str(node.gate.child), str(node.gate.gain)
    verdict = "yes" if node.promoted else "no"
    if node.gate is not None and node.gate.outcome in ("void", "behind", "futile"):
        verdict = f"no: {node.gate.outcome}"
    if node.failure:
        verdict = f"no: {one_line(node.failure[:60], 120)}"
    return {
        "generation": "seed" if node.parent is None else _place(node),
        "lever": f"{node.lever} ({move})" if move else node.lever,
        "decided by": decided_by(node),
        "parent": "" if node.parent is None else "seed" if node.parent == 0 else str(node.parent),
        "score": score,
        "gain over parent": gain,
        "looks": f"{node.gate.looks} of {node.gate.most_looks}" if node.gate else "-",
        "promoted": "" if node.parent is None else verdict,
        "rollouts": str(node.cost.rollouts),
        "tokens": str(node.cost.tokens),
    }


def _place(node: Node) -> str:
    """Return a node's generation, with the node's number if siblings made the two differ."""
    return str(node.generation) if node.generation == node.index else f"{node.generation} (node {node.index})"


def _seed_score(nodes: Sequence[Node]) -> str:
    """Return the seed's score, which is the parent side of its first child's gate."""
    gates = [node.gate for node in nodes if node.parent == 0 and node.gate is not None]
    return str(gates[0].parent) if gates else "-"


def sealed_lines(test: SealedDone, confidence: float) -> list[str]:
    """Format the sealed test in two lines of text."""
    final, gain = test.final, test.gain
    verdict = "the interval lies above 0" if gain.low > 0 else "the interval does not lie above 0"
    if test.node == 0:
        head = f"sealed test ({final.problems} problems, {final.rollouts} rollouts): seed {test.seed}"
        return [head, "nothing was promoted: the final candidate is the seed"]
    return [
        f"sealed test ({final.problems} problems, {final.rollouts} rollouts each side): "
        f"final (node {test.node}) {final}, seed {test.seed}",
        f"gain {gain.mean:+.4f}, {confidence:.0%} interval [{gain.low:+.4f}, {gain.high:+.4f}]: {verdict}",
    ]


def replies_lines(run: RunRecord) -> list[str]:
    """Describe the replies that were cut, empty or refused, of all execute phases and of the sealed test."""
    phases = [generation.phase(AnalyzeDone) for generation in run.generations()]
    executed = sum((phase.evidence.replies for phase in phases if phase is not None), Replies())
    test = run.phase(SealedDone)
    sealed = Replies() if test is None else test.replies
    return [*reply_lines(executed, "execute phases"), *reply_lines(sealed, "sealed test")]


def report_rows(test: SealedDone) -> list[dict[str, str]]:
    """Return the task's own figures of the sealed test, one row each."""
    sides = {side: dict(test.report.get(side, ())) for side in ("final", "seed")}
    if test.node == 0:
        del sides["final"]  # It is the seed.
    names = dict.fromkeys(name for figures in sides.values() for name in figures)
    return [
        {"figure": name, **{side: _figure(figures.get(name, "-")) for side, figures in sides.items()}} for name in names
    ]


def _figure(value: float | str) -> str:
    return str(value) if isinstance(value, str | int) else f"{value:.4f}"


def spent_lines(kept: Mapping[str, Any], budget: Budget) -> list[str]:
    """Totals, time by role, and the shares of the budget.

    Args:
        kept: the run's `spending.json`.
        budget: what it may spend.
    """
    roles = read_spent(kept["roles"])
    whole, wall = total(roles), kept["wall_seconds"]
    parts = [f"{whole.rollouts:.0f} rollouts", f"{whole.tokens:.0f} tokens", f"{wall / 60:.1f} min"]
    if whole.dollars:
        parts.append(f"{whole.dollars:.2f} dollars")
    if whole.gpu_seconds:
        parts.append(f"{whole.gpu_seconds / HOUR:.2f} GPU hours")
    by_role = ", ".join(f"{role} {amounts.seconds / 60:.1f} min" for role, amounts in roles.items() if amounts.seconds)
    lines = [f"spent: {', '.join(parts)}; side by side: {by_role}"]
    limits = [f"{amount / limit:.0%} of {limit:g} {name}" for name, amount, limit in budget.shares(whole, wall)]
    return [*lines, f"budget: {', '.join(limits)}"] if limits else lines

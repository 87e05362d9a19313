"""Simulate how often the promotion gate is wrong, what it finds, and what it costs, with the project's own functions.

Rollout scores are drawn, and everything else is `search.gate.judge`, `search.sequential.read` and `search.lineage`, the
code of a run. Rates carry their binomial 95 % half-width. For comparison: the paired percentile bootstrap over
problems, and then over rollouts too, with one look, and an always-valid bound (the normal-mixture confidence sequence;
Robbins 1970) read after every block.

    python -m bench.gate [--quick] [--gates N] [--only SECTION ...] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.parts.gate_floor import show_detectable, show_floor, show_minibatch, show_ties, unseen_of
from bench.parts.gate_settings import ALPHA, SETTINGS, Setting, draw, half_width
from sia_core.domain.candidate import Candidate
from sia_core.domain.lineage import GateVerdict, Node
from sia_core.domain.stats import paired_gain
from sia_core.search import sequential
from sia_core.search.gate import Rules, Sides, growing, judge
from sia_core.search.lineage import rival
from sia_core.search.sequential import cut, read


def gate(
    setting: Setting, rng: np.random.Generator, gain: float, alpha: float = ALPHA, *, floor: bool = True
) -> tuple[bool, float, int]:
    """Play one gate: return promotion, share of the rollouts, and looks. Without `floor` ties are certainty."""
    parent, child = draw(setting, rng, (0.0, gain))
    differences = child.mean(1) - parent.mean(1)
    ends = cut(setting.problems)
    blocks = np.split(differences, ends[:-1])
    shares = [end / setting.problems for end in ends]
    for look in range(len(ends)):
        unseen = unseen_of(parent[: ends[look]], child[: ends[look]]) if floor else 0.0
        reading = read(blocks[: look + 1], shares[: look + 1], alpha, unseen)
        if reading.crossed or reading.hopeless:
            break
    return reading.crossed, shares[look], look + 1


@cache
def rates(
    setting: Setting,
    gain: float,
    gates: int,
    alpha: float = ALPHA,
    *,
    floor: bool = True,
    power: float = sequential.POWER,
) -> dict[str, float]:
    """Return the share promoted, the mean share of rollouts and the mean number of looks of many gates."""
    rng = np.random.default_rng(17)
    with patch.object(sequential, "POWER", power):
        found = np.array([gate(setting, rng, gain, alpha, floor=floor) for _ in range(gates)], float).mean(0)
    return dict(zip(("promoted", "rollouts", "looks"), found.tolist(), strict=True))


def bootstrap(setting: Setting, gain: float, gates: int, *, within: bool) -> float:
    """Return the share promoted by a percentile bootstrap with one look; `within` also resamples rollouts."""
    rng, promoted = np.random.default_rng(17), 0
    for trial in range(gates):
        sides = draw(setting, rng, (0.0, gain))
        if within:
            scores = [{f"{at:03}": row.tolist() for at, row in enumerate(side)} for side in sides]
            promoted += paired_gain(scores[0], scores[1], confidence=1 - ALPHA, seed=trial).bound > 0
        else:
            differences = sides[1].mean(1) - sides[0].mean(1)
            means = differences[rng.integers(differences.size, size=(2000, differences.size))].mean(1)
            promoted += float(np.quantile(means, ALPHA)) > 0
    return promoted / gates


def always_valid(setting: Setting, gain: float, gates: int) -> float:
    """Return the share promoted by a one-sided normal-mixture confidence sequence, tuned to the whole block."""
    rng, promoted = np.random.default_rng(17), 0
    ends = np.array(cut(setting.problems))
    for _ in range(gates):
        parent, child = draw(setting, rng, (0.0, gain))
        differences = child.mean(1) - parent.mean(1)
        sums = np.cumsum(differences)[ends - 1]
        variance = np.array([differences[:end].var(ddof=1) for end in ends]) * ends
        rho = variance[-1] / 2.5  # Tightest at the whole block, for this error rate.
        bound = np.sqrt((variance + rho) * np.log((variance + rho) / (4 * ALPHA**2 * rho)))
        promoted += bool((sums > bound).any())
    return promoted / gates


@dataclass(frozen=True)
class Walk:
    """Result of a run of many generations."""

    value: float
    """True gain of the last champion over the seed."""
    promoted: int
    wrong: int
    """Number of promoted children that were not truly better than their parent."""
    rollouts: float
    """Mean share of two whole blocks that a gate took, including the rival's rollouts."""


Step = float | Callable[[np.random.Generator], float]


def walk(step: Step, seed: int, accept: str, generations: int) -> Walk:
    """Simulate a run in which each child's true gain over its parent is `step`.

    Args:
        step: a true gain, or a function that draws one.
        seed: seed of the scores.
        accept: `gate` as in the project, `no check` without the rival, `above` any gain, `always`.
        generations: number of children in a row.
    """
    rng = np.random.default_rng(seed)
    nodes, truth = [Node(0, None, Candidate("0"), "seed", True)], {0: 0.0}
    champion, wrong, spent = 0, 0, 0.0
    for index in range(1, generations + 1):
        gain = step(rng) if callable(step) else step
        truth[index] = truth[champion] + gain
        verdict, promoted, cost = _decide(nodes, nodes[champion], truth, index, rng, accept)
        spent += cost
        nodes.append(Node(index, champion, Candidate(str(index)), "harness", promoted, verdict))
        wrong += promoted and gain <= 0
        champion = index if promoted else champion
    return Walk(truth[champion], sum(node.promoted for node in nodes) - 1, wrong, spent / generations)


SIZE = Setting("binary, solved by 0 to 90 %", 50, 4, "varied")
PROBLEMS = [f"{at:02}" for at in range(SIZE.problems)]
RULES = Rules(SIZE.rollouts, 1 - ALPHA, tolerance=0.02, gain_per_token_doubling=0.02)


def _decide(
    nodes: Sequence[Node], parent: Node, truth: dict[int, float], index: int, rng: np.random.Generator, accept: str
) -> tuple[GateVerdict | None, bool, float]:
    other = rival(nodes, parent) if accept == "gate" else None
    players = [parent.index, index] + ([other.index] if other else [])
    rate = rng.uniform(0, 0.9, SIZE.problems)
    drawn = [
        rng.binomial(1, np.clip(rate + truth[player], 0, 1)[:, None], (SIZE.problems, SIZE.rollouts))
        for player in players
    ]
    if accept in ("always", "above"):
        return None, accept == "always" or bool(drawn[1].mean() > drawn[0].mean()), 1.0
    scores = [{name: row.astype(float).tolist() for name, row in zip(PROBLEMS, side, strict=True)} for side in drawn]
    best = False
    for played in growing(PROBLEMS):
        names = [problem for block in played for problem in block]
        seen = [{name: side[name] for name in names} for side in scores]
        sides = Sides(seen[0], seen[1], best_node=other.index if other else 0)
        if best:
            sides = replace(sides, best=seen[2])
        verdict = judge(sides, played, SIZE.problems, RULES, intervals=False)
        if verdict.promoted and other is not None and not best:
            best = True
            verdict = judge(replace(sides, best=seen[2]), played, SIZE.problems, RULES, intervals=False)
        if verdict.outcome != "open":
            break
    return verdict, verdict.promoted, (2 + best) / 2 * len(names) / SIZE.problems


def mixture(rng: np.random.Generator) -> float:
    """Draw the true gain of a proposal: 60 % change nothing, 25 % cost 5 points, 15 % bring 8."""
    return float(rng.choice([0.0, -0.05, 0.08], p=[0.6, 0.25, 0.15]))


def show_gates(gates: int) -> list[dict[str, Any]]:
    """Show no-ops and true gains, setting by setting."""
    rows = []
    print(f"\n{gates} gates a row; alpha {ALPHA:.0%}; rollouts as a share of the whole block's\n")
    print(
        "| scores | problems x rollouts | no-ops promoted | rollouts, looks | +10 points promoted | rollouts, looks |"
    )
    print("|---|---|---|---|---|---|")
    for setting in SETTINGS:
        none, ten = (rates(setting, gain, gates) for gain in (0.0, 0.1))
        rows.append({"setting": setting.__dict__, "none": none, "ten": ten})
        cells = [
            f"{one['promoted']:.1%} ± {half_width(one['promoted'], gates):.1%} | "
            f"{one['rollouts']:.0%}, {one['looks']:.1f}"
            for one in (none, ten)
        ]
        print(f"| {setting.name} | {setting.problems} x {setting.rollouts} | {' | '.join(cells)} |", flush=True)
    return rows


def show_rivals(gates: int) -> list[dict[str, Any]]:
    """Show other tests on the same draws."""
    rows = []
    print("\n| test | no-ops, 50 x 4 | no-ops, 8 x 4 normal | +10 points, 50 x 4 |")
    print("|---|---|---|---|")
    first, few = SETTINGS[0], SETTINGS[-1]
    tests: dict[str, Callable[[Setting, float], float]] = {
        "this gate, up to 4 looks": lambda setting, gain: rates(setting, gain, gates)["promoted"],
        "percentile bootstrap over problems, one look": lambda s, g: bootstrap(s, g, gates, within=False),
        "the same, then over rollouts": lambda s, g: bootstrap(s, g, gates // 4, within=True),
        "confidence sequence, 4 looks": lambda s, g: always_valid(s, g, gates),
    }
    for name, test in tests.items():
        found = [test(first, 0.0), test(few, 0.0), test(first, 0.1)]
        rows.append({"test": name, "rates": found})
        print(f"| {name} | {' | '.join(f'{rate:.1%}' for rate in found)} |", flush=True)
    return rows


def show_spending(gates: int) -> list[dict[str, Any]]:
    """Show other spending functions: alpha * t ** power."""
    rows = []
    print("\n| alpha spent after a share t | no-ops | +10 points | rollouts, no-ops | rollouts, +10 points |")
    print("|---|---|---|---|---|")
    for power in (1.0, 1.5, 2.0, 3.0):
        none, ten = (rates(SIZE, gain, gates, power=power) for gain in (0.0, 0.1))
        rows.append({"power": power, "none": none, "ten": ten})
        share = f"{none['rollouts']:.0%} | {ten['rollouts']:.0%}"
        print(f"| alpha t^{power:g} | {none['promoted']:.1%} | {ten['promoted']:.1%} | {share} |", flush=True)
    return rows


def show_siblings(gates: int) -> dict[str, float]:
    """Show how often any of four no-op siblings, which share one error rate, is promoted."""
    one = rates(SIZE, 0.0, gates, ALPHA / 4)["promoted"]
    print(f"\none of 4 no-op siblings is promoted: {one:.2%} each, {1 - (1 - one) ** 4:.1%} any (if independent)")
    return {"each": one}


def show_walks(runs: int, generations: int = 20) -> list[dict[str, Any]]:
    """Show whole runs: drift, no-ops, and a mixture."""
    rows = []
    print(
        f"\n{runs} runs of {generations} generations a row, 50 problems x 4 rollouts; values are points over the seed\n"
    )
    print("| children | accepted by | promoted a run | no better | last champion | 3 points lost | gate's rollouts |")
    print("|---|---|---|---|---|---|---|")
    kinds: dict[str, Step] = {"-1 point each": -0.01, "no-ops": 0.0, "60 % no-ops, 25 % -5, 15 % +8": mixture}
    for kind, step in kinds.items():
        for accept in ("always", "above", "no check", "gate"):
            walks = [walk(step, seed, accept, generations) for seed in range(runs)]
            value = [100 * one.value for one in walks]
            row: dict[str, Any] = {
                "children": kind,
                "accept": accept,
                "promoted": float(np.mean([one.promoted for one in walks])),
                "wrong": float(np.mean([one.wrong for one in walks])),
                "value": float(np.mean(value)),
                "error": float(np.std(value) / np.sqrt(runs)),
                "lost": float(np.mean([one <= -2.99 for one in value])),
                "any_wrong": float(np.mean([one.wrong > 0 for one in walks])),
                "rollouts": float(np.mean([one.rollouts for one in walks])),
            }
            rows.append(row)
            name = {"above": "any gain", "no check": "the test alone", "gate": "the gate"}.get(accept, accept)
            print(
                f"| {kind} | {name} | {row['promoted']:.2f} | {row['wrong']:.2f} (in {row['any_wrong']:.0%} of runs) | "
                f"{row['value']:+.1f} ± {1.96 * row['error']:.1f} | {row['lost']:.0%} | {row['rollouts']:.0%} |",
                flush=True,
            )
    return rows


SECTIONS: dict[str, Callable[[int], Any]] = {
    "gates": show_gates,
    "floor": lambda gates: show_floor(gates, rates),
    "ties": show_ties,
    "minibatch": show_minibatch,
    "detectable": lambda gates: show_detectable(gates, rates),
    "tests": show_rivals,
    "spending": show_spending,
    "siblings": show_siblings,
    "runs": show_walks,
}
"""Simulations by name of the section, each for a number of gates or runs."""


def main() -> None:
    """Run and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer gates and runs: under a minute, wide intervals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--gates", type=int, metavar="N", help="gates a row, instead of 1,000 (40 with --quick)")
    options = parser.parse_args()
    gates, runs = (40, 2) if options.quick else (1000, 100)
    gates = options.gates or gates
    started = time.perf_counter()
    figures = {name: SECTIONS[name](runs if name == "runs" else gates) for name in options.only}
    print(f"\n{time.perf_counter() - started:.0f} s, numpy {np.__version__}")
    if options.json:
        options.json.write_text(json.dumps({"count": gates, "runs": runs, **figures}, indent=1))


if __name__ == "__main__":
    main()

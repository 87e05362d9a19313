"""Measure effect and cost of the pair of unseen differences (`sequential`) for ties, at the gate and in the minibatch.

Before is the gate without the pair, and for the minibatch its former percentile bootstrap (`stats.paired_gain`). Before
and after see the same draws.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.parts.gate_settings import ALPHA, SETTINGS, Floats, Setting, draw, half_width
from sia_core.domain.config import MINIBATCH_PROBLEMS, MINIBATCH_ROLLOUTS, RunConfig
from sia_core.domain.lineage import GateVerdict
from sia_core.domain.stats import Scores, paired_gain
from sia_core.search import gate
from sia_core.search.gate import Rules, Sides, growing, judge, most_gain
from sia_core.search.power import detectable

CONFIDENCE = 0.95
"""Confidence of the minibatch's upper limit (`sia_core.loop.ladder.FUTILITY`)."""
PRICE = float(RunConfig.model_fields["gain_per_token_doubling"].default)
UNSEEN = gate.unseen(0.0, {"any": [1.0]})
Rates = Callable[..., dict[str, float]]
Pair = tuple[Floats, Floats]


def solved(problems: int, rollouts: int, rng: np.random.Generator) -> Pair:
    """Draw binary scores that agree between rollouts; the parent solves half the problems, the child 60 %."""
    at = rng.random(problems)
    sides = [np.repeat((at < share)[:, None], rollouts, axis=1).astype(float) for share in (0.5, 0.6)]
    return sides[0], sides[1]


def constant(problems: int, rollouts: int, rng: np.random.Generator) -> Pair:
    """Draw scores that are nearly all 0.5; the child brings one problem in four to 0.9."""
    parent, child = (0.5 + rng.normal(0, 1e-4, (problems, 1)).repeat(rollouts, axis=1) for _ in range(2))
    return parent, np.where(rng.random((problems, 1)) < 0.25, child + 0.4, child)


TIES = {"binary, rollouts agree": solved, "nearly all 0.5": constant}


def show_ties(gates: int) -> list[dict[str, Any]]:
    """Show verdicts on a true gain of 10 points at 1.8 times the tokens, by the size of the gate."""
    rows = []
    print(f"\ntrue gain +10 points, mostly ties, 1.8 times the tokens at a price of {PRICE:g}; {gates} gates a row\n")
    print("| scores | problems x rollouts | given up at look 1: before | after | no price | promoted: before | after |")
    print("|---|---|---|---|---|---|---|")
    for name, kind in TIES.items():
        for problems in (8, 12, 20, 44, 50):
            before, after = (_ends(kind, problems, gates, 1.8, floor=floor) for floor in (False, True))
            free = _ends(kind, problems, gates, 1.0, floor=True)
            rows.append({"scores": name, "problems": problems, "before": before, "after": after, "free": free})
            cells = [before["given_up"], after["given_up"], free["given_up"], before["promoted"], after["promoted"]]
            print(f"| {name} | {problems} x 2 | {' | '.join(f'{one:.1%}' for one in cells)} |", flush=True)
    return rows


def _ends(
    kind: Callable[[int, int, np.random.Generator], Pair], problems: int, gates: int, token_ratio: float, *, floor: bool
) -> dict[str, float]:
    rng = np.random.default_rng(17)
    with patch.object(gate, "unseen", gate.unseen if floor else lambda *_: 0.0):
        verdicts = [_judged(*kind(problems, 2, rng), token_ratio) for _ in range(gates)]
    given_up = np.mean([one.outcome == "futile" and one.looks == 1 for one in verdicts])
    return {"given_up": float(given_up), "promoted": float(np.mean([one.promoted for one in verdicts]))}


def _judged(parent: Floats, child: Floats, token_ratio: float) -> GateVerdict:
    """Judge look by look, as a run does."""
    sides = [_scores(side) for side in (parent, child)]
    for played in growing(sorted(sides[0])):
        seen = [{name: side[name] for block in played for name in block} for side in sides]
        verdict = judge(
            Sides(seen[0], seen[1], token_ratio=token_ratio),
            played,
            len(sides[0]),
            Rules(parent.shape[1], 1 - ALPHA, gain_per_token_doubling=PRICE),
            intervals=False,
        )
        if verdict.outcome != "open":
            break
    return verdict


def show_floor(gates: int, rates: Rates) -> list[dict[str, Any]]:
    """Compare the same gates without and with the pair: errors, gains found, and the cost of a weaker stop."""
    rows = []
    print("\npromoted, and rollouts as a share of the whole block's, before -> after\n")
    print("| scores | problems x rollouts | no-ops | -5 points | +10 points |")
    print("|---|---|---|---|---|")
    for setting in SETTINGS:
        cells, row = [], {"setting": setting.__dict__}
        for name, gain in {"none": 0.0, "worse": -0.05, "ten": 0.1}.items():
            old, new = (rates(setting, gain, gates, floor=floor) for floor in (False, True))
            row[name] = {"before": old, "after": new}
            cells.append(
                f"{old['promoted']:.1%} -> {new['promoted']:.1%}, {old['rollouts']:.0%} -> {new['rollouts']:.0%}"
            )
        rows.append(row)
        print(f"| {setting.name} | {setting.problems} x {setting.rollouts} | {' | '.join(cells)} |", flush=True)
    return rows


MINI = {
    name: Setting(name, MINIBATCH_PROBLEMS, MINIBATCH_ROLLOUTS, kind)
    for name, kind in {
        "binary, solved by 0 to 90 %": "varied",
        "binary, all solved by 45 %": "hard",
        "continuous, normal": "normal",
    }.items()
}


def show_minibatch(gates: int) -> list[dict[str, Any]]:
    """Show the children that the minibatch gives up, by true gain."""
    rows = []
    gains = (0.1, 0.05, 0.0, -0.1, -0.2, -0.3)
    print(f"\nminibatch, {MINIBATCH_PROBLEMS} problems x {MINIBATCH_ROLLOUTS}: given up, bootstrap -> with the pair\n")
    print(f"| scores | {' | '.join(f'{100 * gain:+.0f} points' for gain in gains)} | score 0 everywhere |")
    print(f"|---|{'---|' * (len(gains) + 1)}")
    for name, setting in MINI.items():
        found = [_given_up(_pairs(setting, gain, gates)) for gain in gains]
        found.append(_given_up([(parent, 0 * parent) for parent, _ in _pairs(setting, 0.0, gates)]))
        rows.append({"scores": name, "gains": gains, "given_up": found})
        print(f"| {name} | {' | '.join(f'{old:.1%} -> {new:.1%}' for old, new in found)} |", flush=True)
    for name, low in {
        "ties but for -2 points each, +50 on one in five": 0.5,
        "-2 points each, nothing else": 0.0,
    }.items():
        found = [_given_up(_rare(low, gates))]
        rows.append({"scores": name, "given_up": found})
        print(f"\n{name}: {found[0][0]:.1%} -> {found[0][1]:.1%}", flush=True)
    return rows


def _pairs(setting: Setting, gain: float, count: int) -> list[Pair]:
    rng = np.random.default_rng(17)
    drawn = [draw(setting, rng, (0.0, gain)) for _ in range(count)]
    return [(np.clip(parent, 0, 1), np.clip(child, 0, 1)) for parent, child in drawn]


def _rare(jump: float, count: int) -> list[Pair]:
    """Draw pairs whose differences are all -0.02, but for a jump on one problem in five."""
    rng, shape = np.random.default_rng(17), (MINIBATCH_PROBLEMS, MINIBATCH_ROLLOUTS)
    parent = np.full(shape, 0.5)
    return [(parent, parent - 0.02 + jump * (rng.random((shape[0], 1)) < 0.2)) for _ in range(count)]


def _given_up(pairs: list[Pair]) -> tuple[float, float]:
    sides = [(_scores(parent), _scores(child)) for parent, child in pairs]
    some = sides[: max(len(sides) // 4, 20)]  # The bootstrap is slow.
    old = [
        paired_gain(child, parent, confidence=CONFIDENCE, seed=at).bound > 0 for at, (parent, child) in enumerate(some)
    ]
    new = [most_gain(parent, child, CONFIDENCE, 0.0)[1] < 0 for parent, child in sides]
    return float(np.mean(old)), float(np.mean(new))


def show_detectable(gates: int, rates: Rates) -> list[dict[str, Any]]:
    """Show how often the gain of `search.power.detectable`, which promises 80 %, is promoted."""
    rows = []
    print("\n| scores | problems x rollouts | detectable gain | promoted at it |")
    print("|---|---|---|---|")
    for setting in SETTINGS:
        gain = detectable(Rules(setting.rollouts, 1 - ALPHA), setting.problems, _spread(setting), unseen=UNSEEN)
        reached = rates(setting, gain, gates)["promoted"]
        rows.append({"setting": setting.__dict__, "gain": gain, "promoted": reached})
        size = f"{setting.problems} x {setting.rollouts}"
        print(
            f"| {setting.name} | {size} | {gain:+.3f} | {reached:.1%} ± {half_width(reached, gates):.1%} |", flush=True
        )
    return rows


def _spread(setting: Setting) -> float:
    """Estimate the standard deviation of a difference, as earlier gates of a run would."""
    rng = np.random.default_rng(1)
    drawn = [draw(setting, rng, (0.0, 0.1)) for _ in range(200)]
    return float(np.sqrt(np.mean([(child.mean(1) - parent.mean(1)).var(ddof=1) for parent, child in drawn])))


def unseen_of(*sides: Floats) -> float:
    """Return `search.gate.unseen` of these scores, whose floor is 0."""
    return gate.unseen(0.0, *(_scores(side) for side in sides))


def _scores(side: Floats) -> Scores:
    return {f"{at:03}": row.tolist() for at, row in enumerate(side)}

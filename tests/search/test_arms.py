"""Comparisons: the runs that a plan holds, and the results of finished runs."""

import random

import pytest

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import UsageError
from sia_core.domain.lineage import Cost
from sia_core.report.arms import arm_rows, arms_markdown, versus_rows
from sia_core.search.arms import BEST_OF_N, ArmRun, ArmsPlan, compare, plan_arms

CONFIG = RunConfig(
    task="toy",
    generations=3,
    problems=4,
    rollouts=4,
    gate_problems=8,
    gate_rollouts=2,
    test_problems=10,
    test_rollouts=2,
    seed=5,
)


def run(arm: str, seed: int, mean: float, spread: float = 0.0) -> ArmRun:
    """A run whose sealed scores lie about a mean, the seed candidate's about 0.2."""
    rng = random.Random(f"{arm}{seed}")
    final = {f"p{n}": [mean + rng.uniform(-spread, spread) for _ in range(2)] for n in range(10)}
    initial = {f"p{n}": [0.2, 0.2] for n in range(10)}
    return ArmRun(arm, seed, f"{arm}-{seed}", final, initial, Cost(100, 1000, 5.0), promoted=1)


def test_plan_of_a_comparison_makes_the_configuration_of_every_arm() -> None:
    plan = plan_arms(CONFIG, [], seeds=2)
    assert plan.arms == ("harness", "weights", "alternate", "agent", "best-of-n")
    assert [seed for seed, _ in plan.members] == [5] * 5 + [6] * 5
    configs = {arm.name: plan.member_config(seed, arm, [Cost(95), Cost(40)]) for seed, arm in plan.members}
    assert configs["harness"].levers == ("harness",) and configs["harness"].seed == 6
    assert configs["alternate"].agent == "alternate" and configs["agent"] == CONFIG.model_copy(update={"seed": 6})
    # As many rollouts as the dearest other arm, spread over the sealed problems.
    assert (configs["best-of-n"].levers, configs["best-of-n"].test_rollouts) == ((), 10)
    assert ArmsPlan.model_validate(plan.model_dump(mode="json")) == plan


def test_comparison_grows_by_seeds_and_keeps_existing_ones() -> None:
    plan = plan_arms(CONFIG, ["harness", "agent"], seeds=1)
    more = plan.with_seeds(3)
    assert more.members[: len(plan.members)] == plan.members
    assert [seed for seed, _ in more.members] == [5, 5, 6, 6, 7, 7] and "3 seeds" in more.about
    assert more.with_seeds(3) == more
    with pytest.raises(UsageError, match="has 3 seeds already"):
        more.with_seeds(2)


def test_beside_a_language_model_rules_is_an_arm() -> None:
    plan = plan_arms(CONFIG.model_copy(update={"agent": "openai:m", "meta": False}), [], seeds=1)
    assert "rules" in plan.arms
    arms = {arm.name: arm for _, arm in plan.members}
    assert plan.member_config(5, arms["rules"], []).agent == "rules"


@pytest.mark.parametrize(
    ("names", "words"),
    [(["both"], "unknown arm 'both'"), ([BEST_OF_N], "spends what another"), (["rules", "agent"], "the same here")],
)
def test_invalid_arm_names_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_arms(CONFIG, names, seeds=1)


def test_finished_runs_are_compared_by_arm() -> None:
    runs = [run("agent", seed, mean, 0.05) for seed, mean in enumerate((0.5, 0.6, 0.7))]
    runs += [run("harness", seed, mean) for seed, mean in enumerate((0.3, 0.4, 0.5))]
    found = compare(runs, confidence=0.9)
    seed, agent, harness = found.rows
    assert seed.arm == "seed" and seed.gain is None and seed.score.mean == pytest.approx(0.2)
    assert harness.by_seed == pytest.approx((0.3, 0.4, 0.5)) and harness.seeds == 3
    assert harness.gain is not None and harness.gain.mean == pytest.approx(0.2)
    # Student's t over 0.1, 0.2, 0.3: 0.2 +- 2.92 * 0.1 / sqrt(3).
    assert harness.gain_over_seeds is not None
    assert harness.gain_over_seeds.low == pytest.approx(0.2 - 2.92 * 0.1 / 3**0.5, abs=1e-4)
    assert harness.gain_over_seeds.high == pytest.approx(0.2 + 2.92 * 0.1 / 3**0.5, abs=1e-4)
    assert harness.cost == Cost(100, 1000, 5.0)
    (versus,) = found.versus
    assert (versus.arm, versus.other) == ("agent", "harness")
    assert versus.over_problems.mean == pytest.approx(versus.over_seeds.mean) == pytest.approx(0.2, abs=0.03)
    assert agent.score.low < agent.score.mean < agent.score.high
    text = arms_markdown(found)
    assert all(cell in text for row in (*arm_rows(found), *versus_rows(found)) for cell in row)


def test_single_seed_gives_no_interval_over_seeds() -> None:
    found = compare([run("agent", 0, 0.5), run(BEST_OF_N, 0, 0.4)], confidence=0.9)
    assert found.rows[1].gain_over_seeds is not None and found.rows[1].gain_over_seeds.low is None
    assert "one seed" in arms_markdown(found) and "the verifier choose" in arms_markdown(found)


def test_runs_of_different_seeds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        compare([run("agent", 0, 0.5), run("harness", 1, 0.4)], confidence=0.9)


def test_recorded_decisions_stand_beside_rules_which_pulls_the_single_levers() -> None:
    config = CONFIG.model_copy(update={"agent": "recorded:FILE"})
    plan = plan_arms(config, ["agent", "rules", "best-of-n", "harness", "weights"], seeds=3)
    agents = {arm.name: plan.member_config(seed, arm, [Cost(95)]).agent for seed, arm in plan.members}
    assert agents.pop("agent") == "recorded:FILE" and set(agents.values()) == {"rules"}
    assert plan.about.endswith("policy smollm2, agent recorded:FILE (rules in harness and weights).")
    assert len(plan.members) == 15


def test_language_model_pulls_single_levers_itself() -> None:
    plan = plan_arms(CONFIG.model_copy(update={"agent": "openai:m"}), ["harness", "agent"], seeds=1)
    assert {plan.member_config(seed, arm, []).agent for seed, arm in plan.members} == {"openai:m"}
    assert "rules in" not in plan.about


def test_comparisons_made_with_arm_choice_are_still_read() -> None:
    found = compare([run("choice", 0, 0.5), run("harness", 0, 0.4)], confidence=0.9)
    assert found.versus[0].arm == "choice"
    old = ArmsPlan(config=CONFIG, arms=("harness", "choice"), seeds=1)
    assert [arm.name for _, arm in old.members] == ["harness", "choice"]
    assert plan_arms(CONFIG, ["harness", "choice"], seeds=1).arms == ("harness", "agent")

"""The rules agent follows the evidence and states it as the reason."""

from dataclasses import replace

from sia_core.agents.protocol import Situation
from sia_core.agents.rules import RulesAgent
from sia_core.domain.candidate import Candidate
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Decision, Evidence, GateVerdict, Node
from sia_core.domain.stats import Estimate, Gain
from tests.agents.sources import MemorySource

HARNESS = Harness.from_files(
    {
        "harness.toml": b'name="h"\n[knobs.menu]\nvalue="poor"\noptions=["poor","rich"]\n'
        b"[knobs.attempts]\nvalue=1\nrange=[1, 4]\n",
        "agent.py": b"",
    }
)
SEED = Node(0, None, Candidate("h"), "seed", True)
EVIDENCE = Evidence(
    candidate=Candidate("h"),
    score=Estimate(0.3, 0.2, 0.4, 8, 64),
    best_of=0.6,
    group_size=8,
    mixed=0.9,
    constant=0.1,
    failures={},
    unscored=0,
    trainable=True,
    examples=("k1",),
)
BOTH = Situation(EVIDENCE, [SEED], HARNESS, ("harness", "weights"), {"harness": 100, "weights": 100})


def decide(situation: Situation) -> Decision:
    return RulesAgent().decide(situation, MemorySource())


def _child(index: int, lever: str, knobs: dict[str, object] | None = None, promoted: bool = False) -> Node:
    gain = 0.1 if promoted else -0.05
    estimate = Estimate(0.3, 0.2, 0.4, 8, 32)
    gate = GateVerdict(estimate, estimate, Gain(gain, gain, gain, gain, 8), promoted, "")
    decision = Decision(lever, 0, "", "rules", 0.1, knobs=knobs or {})  # type: ignore[arg-type]
    return Node(index, 0, Candidate(f"h{index}"), lever, promoted, gate, decision)


def test_headroom_in_mixed_groups_points_to_weights() -> None:
    situation = replace(BOTH, evidence=replace(EVIDENCE, best_of=0.9))
    decision = decide(situation)
    assert decision.lever == "weights"
    assert "best-of-8 is 0.9000 against a mean of 0.3000" in decision.reason
    assert decision.cites == ("k1",)


def test_failures_point_to_the_harness() -> None:
    situation = replace(BOTH, evidence=replace(EVIDENCE, failures={"timeout": 0.6}, best_of=0.4))
    decision = decide(situation)
    assert decision.lever == "harness"
    assert decision.knobs == {"menu": "rich"}


def test_constant_groups_are_never_trained_on() -> None:
    situation = replace(BOTH, evidence=replace(EVIDENCE, mixed=0.0, constant=1.0), levers=("weights",))
    assert decide(situation).lever == "stop"


def test_rules_prefer_the_lever_that_costs_less() -> None:
    costly = replace(BOTH, costs={"harness": 100, "weights": 1000})
    wide = replace(EVIDENCE, best_of=0.9)
    assert decide(replace(BOTH, evidence=wide)).lever == "weights"
    assert decide(replace(costly, evidence=wide)).lever == "harness"


def test_rejected_move_is_not_tried_again_on_the_same_parent() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"})]
    decision = decide(replace(BOTH, nodes=nodes, levers=("harness",)))
    assert decision.knobs == {"attempts": 2}


def test_lever_on_a_plateau_is_passed_over_for_the_other() -> None:
    failing = replace(BOTH, evidence=replace(EVIDENCE, failures={"refused": 0.6}, best_of=0.4))
    assert decide(failing).lever == "harness"
    switched = decide(replace(failing, tired=("harness",)))
    assert switched.lever == "weights"
    assert "lever harness is on a plateau" in switched.reason
    assert decide(replace(failing, tired=("harness",), levers=("harness",))).lever == "harness"


def test_failures_made_by_the_harness_are_fixed_before_training() -> None:
    wide = replace(EVIDENCE, best_of=1.0, score=Estimate(0.05, 0.0, 0.1, 8, 64))
    decision = decide(replace(BOTH, evidence=replace(wide, failures={"output": 0.3})))
    assert decision.lever == "harness" and "30% of rollouts fail because of the harness" in decision.reason
    assert decide(replace(BOTH, evidence=replace(wide, failures={"refused": 0.3}))).lever == "weights"


def test_cheap_probe_comes_before_expensive_training() -> None:
    low = replace(EVIDENCE, best_of=1.0, score=Estimate(0.1, 0.0, 0.2, 8, 64))
    wide = replace(BOTH, evidence=low, costs={"harness": 100, "weights": 160})
    probe = decide(wide)
    assert probe.lever == "harness" and "a cheap probe before training" in probe.reason
    assert decide(replace(wide, nodes=[SEED, _child(1, "harness", {"menu": "rich"})])).lever == "weights"


def test_menu_that_lost_alone_is_tried_with_training() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}), _child(2, "weights")]
    decision = decide(replace(BOTH, nodes=nodes, harness=HARNESS.with_knobs({"attempts": 4})))
    assert (decision.lever, decision.knobs) == ("both", {"menu": "rich"})
    assert "lost as node 1 without training" in decision.reason
    again = [*nodes, replace(_child(3, "both", {"menu": "rich"}), decision=decision)]
    assert decide(replace(BOTH, nodes=again, harness=HARNESS.with_knobs({"attempts": 4}))).lever == "stop"


def test_nearly_constant_groups_are_not_trained_on_under_a_wider_menu_either() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"})]
    constant = replace(EVIDENCE, mixed=0.05, constant=0.95)
    done = HARNESS.with_knobs({"attempts": 4})
    assert decide(replace(BOTH, evidence=constant, nodes=nodes, harness=done)).lever == "stop"


def test_memory_of_a_kind_of_change_decides_between_knobs() -> None:
    """Two knobs differ only in their past gains, and both could be moved on a new pair."""
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}), _child(2, "harness", {"attempts": 2}, promoted=True)]
    nodes = [
        replace(node, decision=replace(node.decision, category=f"knob {next(iter(node.decision.knobs))}"))
        if node.decision
        else node
        for node in nodes
    ]
    decision = decide(replace(BOTH, nodes=nodes, levers=("harness",)))
    assert decision.parent == 2 and decision.knobs == {"attempts": 2}


def test_rules_branch_from_the_executed_node() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}, promoted=True)]
    assert decide(replace(BOTH, nodes=nodes, parent=0)).parent == 0


def test_refused_lever_is_passed_over_and_the_refusal_kept() -> None:
    situation = replace(
        BOTH, evidence=replace(EVIDENCE, best_of=0.9), refused=("weights: no ids",), refused_levers=("weights",)
    )
    decision = decide(situation)
    assert decision.lever == "harness"
    assert decision.refused == ("weights: no ids",)


def test_rules_branch_from_the_last_promoted_node() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}, promoted=True), _child(2, "weights")]
    assert decide(replace(BOTH, nodes=nodes)).parent == 1


def test_missed_prediction_lowers_the_next_one() -> None:
    first = decide(replace(BOTH, levers=("harness",)))
    after = decide(replace(BOTH, nodes=[SEED, _child(1, "harness", {"menu": "rich"})], levers=("harness",)))
    assert after.predicted_gain < first.predicted_gain


def test_rules_stop_when_nothing_is_left_to_try() -> None:
    done = HARNESS.with_knobs({"menu": "rich", "attempts": 4})
    nodes = [SEED, _child(1, "weights")]
    assert decide(replace(BOTH, harness=done, nodes=nodes)).lever == "stop"


def test_siblings_make_different_moves() -> None:
    first = decide(replace(BOTH, levers=("harness",)))
    second = decide(replace(BOTH, levers=("harness",), siblings=(first,)))
    third = decide(replace(BOTH, levers=("harness",), siblings=(first, second)))
    assert (first.knobs, second.knobs, third.lever) == ({"menu": "rich"}, {"attempts": 2}, "stop")


def test_lever_pulled_twice_in_a_row_is_passed_over_for_the_other() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}, promoted=True), _child(2, "harness", promoted=True)]
    sure = replace(EVIDENCE, best_of=0.35, failures={"refused": 0.2})
    decision = decide(replace(BOTH, nodes=nodes, evidence=sure))
    assert decision.lever == "weights" and "harness was pulled 2 times in a row" in decision.reason
    alone = decide(replace(BOTH, nodes=nodes, evidence=sure, levers=("harness",)))
    assert alone.lever == "harness"

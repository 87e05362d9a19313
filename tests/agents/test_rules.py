"""The rules agent follows the evidence, and says so."""

from dataclasses import replace

from sia_core.agents.protocol import Situation
from sia_core.agents.rules import RulesAgent
from sia_core.candidate import Candidate
from sia_core.generation import Decision, Evidence, GateVerdict, Node
from sia_core.harness import Harness
from sia_core.stats import Estimate, Gain
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


def test_cost_counts() -> None:
    dear = replace(BOTH, costs={"harness": 100, "weights": 1000})
    wide = replace(EVIDENCE, best_of=0.9)
    assert decide(replace(BOTH, evidence=wide)).lever == "weights"
    assert decide(replace(dear, evidence=wide)).lever == "harness"


def test_a_rejected_move_is_not_tried_again_on_the_same_parent() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"})]
    decision = decide(replace(BOTH, nodes=nodes, levers=("harness",)))
    assert decision.knobs == {"attempts": 2}


def test_two_pulls_in_a_row_make_way_for_the_other_lever() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}), _child(2, "harness", {"attempts": 2})]
    decision = decide(replace(BOTH, nodes=nodes))
    assert decision.lever == "weights"


def test_a_refused_lever_is_passed_over_and_the_refusal_kept() -> None:
    situation = replace(
        BOTH, evidence=replace(EVIDENCE, best_of=0.9), refused=("weights: no ids",), refused_levers=("weights",)
    )
    decision = decide(situation)
    assert decision.lever == "harness"
    assert decision.refused == ("weights: no ids",)


def test_it_branches_from_the_last_promoted_node() -> None:
    nodes = [SEED, _child(1, "harness", {"menu": "rich"}, promoted=True), _child(2, "weights")]
    assert decide(replace(BOTH, nodes=nodes)).parent == 1


def test_disappointment_lowers_the_next_prediction() -> None:
    first = decide(replace(BOTH, levers=("harness",)))
    after = decide(replace(BOTH, nodes=[SEED, _child(1, "harness", {"menu": "rich"})], levers=("harness",)))
    assert after.predicted_gain < first.predicted_gain


def test_nothing_left_means_stop() -> None:
    done = HARNESS.with_knobs({"menu": "rich", "attempts": 4})
    nodes = [SEED, _child(1, "weights")]
    assert decide(replace(BOTH, harness=done, nodes=nodes)).lever == "stop"


def test_siblings_make_different_moves() -> None:
    first = decide(replace(BOTH, levers=("harness",)))
    second = decide(replace(BOTH, levers=("harness",), siblings=(first,)))
    third = decide(replace(BOTH, levers=("harness",), siblings=(first, second)))
    assert (first.knobs, second.knobs, third.lever) == ({"menu": "rich"}, {"attempts": 2}, "stop")

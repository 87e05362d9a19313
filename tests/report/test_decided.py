"""Decisions are shown in a line, with the agent that `rules` replaced."""

from dataclasses import asdict, replace

import pytest

from sia_core.domain.candidate import Candidate
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Decision, GateVerdict, Node
from sia_core.domain.stats import Estimate, Gain
from sia_core.report.decided import calibrations, decided_by, decision_line, short_spec, stand_in_lines
from sia_core.report.table import lineage_rows

SPEC = "openai:gpt-x@http://127.0.0.1:8000/v1"
DECISION = Decision(
    "harness",
    0,
    "the menu lacks blue",
    SPEC,
    predicted_gain=0.2,
    predicted_range=(0.1, 0.3),
    hypothesis="a wider menu holds a better colour",
    category="search",
    cites=("a", "b", "c"),
)
STOOD_IN = replace(
    DECISION, agent="rules", predicted_gain=0.4, instead_of=SPEC, refused=(f"{SPEC}: no decision in 30 turns",)
)
ESTIMATE = Estimate(0.3, 0.2, 0.4, 8, 32)
GATE = GateVerdict(ESTIMATE, ESTIMATE, Gain(0.1, 0.1, 0.05, 0.2, 8), True, "because", "promoted")
SEED = Node(0, None, Candidate("h"), "seed", True)
NODES = [
    SEED,
    Node(1, 0, Candidate("i"), "harness", True, GATE, DECISION, generation=1),
    Node(2, 1, Candidate("j"), "harness", True, GATE, STOOD_IN, generation=2),
]


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (SPEC, "openai:gpt-x"),
        ("anthropic:m@https://a.b/c#MY_KEY", "anthropic:m"),
        ("openai:m#MY_KEY", "openai:m"),
        ("openai:team/m@v2", "openai:team/m@v2"),
        ("replay:/somewhere/runs/toy/agent.jsonl", "replay:agent.jsonl"),
        ("rules", "rules"),
    ],
)
def test_spec_is_shown_without_its_address(spec: str, shown: str) -> None:
    assert short_spec(spec) == shown


def test_decision_line_states_agent_lever_hypothesis_and_prediction() -> None:
    assert decision_line(DECISION) == (
        "decided by openai:gpt-x: harness (search): a wider menu holds a better colour; "
        "predicted +0.2000 [+0.1000, +0.3000]; cites 3 rollouts"
    )
    plain = Decision("weights", 0, "groups are mixed", "rules", predicted_gain=0.05)
    assert decision_line(plain) == "decided by rules: weights: groups are mixed; predicted +0.0500"
    stop = replace(plain, lever="stop", cites=("a",))
    assert decision_line(stop) == "decided by rules: stop: groups are mixed; cites 1 rollout"


def test_decision_of_a_hostile_agent_stays_one_printable_line() -> None:
    line = decision_line(replace(DECISION, hypothesis="a\x1b[2J\nb\u202e" + "x" * 9000, category="k" * 900))
    assert line.isprintable() and len(line) < 700


def test_stand_in_is_listed_with_its_reason() -> None:
    assert stand_in_lines(NODES) == ["rules decided in place of openai:gpt-x in generation 2: no decision in 30 turns"]
    assert stand_in_lines(NODES[:2]) == []


def test_lineage_says_who_decided_each_node() -> None:
    assert [row["decided by"] for row in lineage_rows(NODES)] == ["-", "openai:gpt-x", "rules"]
    assert decided_by(replace(NODES[1], decision=Decision("none", 0, "baseline", "none"))) == "-"


def test_predictions_are_credited_to_their_own_agent() -> None:
    one, other = map(str, calibrations(NODES))
    assert one.startswith("predictions of openai:gpt-x: gain predicted +0.2000, observed +0.1000 (mean of 1)")
    assert other.startswith("predictions of rules: gain predicted +0.4000, observed +0.1000 (mean of 1)")
    assert [str(one)[:18] for one in calibrations(NODES[:2])] == ["predictions: gain "]
    assert calibrations([SEED]) == []


def test_decision_keeps_the_agent_it_replaced_and_older_records_have_none() -> None:
    data = asdict(NODES[2])
    assert read(Node, data) == NODES[2]
    del data["decision"]["instead_of"]
    assert stand_in_lines([read(Node, data)]) == []

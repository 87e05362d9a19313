"""`recorded:FILE`: the decision of the generation, for the node that stands in the place of the recorded parent."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.agents.recorded import RecordedAgent, RecordedFirst, absolute, find_recording
from sia_core.agents.recording import Recording
from sia_core.domain.candidate import Candidate
from sia_core.domain.errors import UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Decision, Node
from sia_core.domain.patch import Edit, apply_edits
from sia_core.domain.task import Task
from tests.agents.recordings import FIRST, entry, recording
from tests.agents.sources import MemorySource
from tests.agents.test_llm import SITUATION
from tests.factories import TOY

SEED = Node(0, None, Candidate(FIRST.digest), "seed", promoted=True)
CHILD = apply_edits(FIRST, [Edit("agent.py", "X = 2\n"), Edit("more.py", "Y = 1\n")])
ONE = entry(1, edits=[{"file": "agent.py", "text": "X = 2\n"}, {"file": "more.py", "text": "Y = 1\n"}])
TWO = entry(2, parent=(1, 0), edits=[{"file": "agent.py", "text": "X = 3\n"}])
SOURCE = MemorySource(harnesses={FIRST.digest: FIRST, CHILD.digest: CHILD})


def node(index: int, generation: int, sibling: int, candidate: Candidate, **given: object) -> Node:
    made = Node(index, 0, candidate, "harness", promoted=False, generation=generation, sibling=sibling)
    return replace(made, **given)  # type: ignore[arg-type]


def at(generation: int, *nodes: Node, **given: object) -> Situation:
    lineage = (SEED, *nodes)
    return replace(SITUATION, nodes=lineage, generation=generation, parent=0, **given)  # type: ignore[arg-type]


def agent(made: Recording) -> RecordedAgent:
    return RecordedAgent("recorded:/some/where/winner.json", made)


def test_recorded_decision_is_made_with_all_its_texts() -> None:
    words: dict[str, Any] = {"hypothesis": "h", "category": "search", "falsifier": "f", "memo": "m", "cites": ["abc"]}
    more: dict[str, Any] = {"predicted_gain": 0.2, "predicted_range": [0.1, 0.3], "fixes": ["p0"], "risks": ["p1"]}
    made = agent(recording(entry(1, knobs={"tries": 2}, **words, **more), TWO)).decide(at(1), SOURCE)
    assert made == Decision(
        "harness",
        0,
        "why 1",
        "recorded:winner",
        parent_reason="as recorded",
        predicted_gain=0.2,
        predicted_range=(0.1, 0.3),
        knobs={"tries": 2},
        edits=(Edit("agent.py", "X = 2\n"),),
        hypothesis="h",
        category="search",
        fixes=("p0",),
        risks=("p1",),
        falsifier="f",
        memo="m",
    )


def test_label_of_shipped_decisions_is_the_spec() -> None:
    assert RecordedAgent("recorded", recording(ONE)).decide(at(1), SOURCE).agent == "recorded"


def test_generation_without_a_recorded_decision_stops() -> None:
    made = agent(recording(ONE)).decide(at(2, node(1, 1, 0, Candidate(CHILD.digest))), SOURCE)
    assert made.lever == "stop" and "the recording ends here" in made.reason and made.parent == 0
    sibling = agent(recording(ONE)).decide(at(1, siblings=(made,)), SOURCE)
    assert sibling.lever == "stop"


def test_recorded_stop_is_made_although_its_parent_is_missing() -> None:
    stop = entry(2, lever="stop", parent=(1, 0))
    made = agent(recording(ONE, stop)).decide(at(2, refused=("x",)), SOURCE)
    assert (made.lever, made.reason) == ("stop", "why 2")


def test_parent_is_found_by_generation_and_sibling_not_by_index() -> None:
    # Here the first sibling gained more and joined the lineage last.
    other = node(1, 1, 1, Candidate(FIRST.digest))
    first = node(2, 1, 0, Candidate(CHILD.digest))
    made = agent(recording(ONE, entry(1, 1, knobs={"tries": 2}), TWO)).decide(at(2, other, first), SOURCE)
    assert made.parent == 2 and made.edits == (Edit("agent.py", "X = 3\n"),)


def test_rewrite_leads_to_the_recorded_harness_although_its_parent_fell_here() -> None:
    fell = node(1, 1, 0, SEED.candidate, failure="minibatch: futile")
    made = agent(recording(ONE, TWO)).decide(at(2, fell), SOURCE)
    assert made.parent == 1
    wanted = apply_edits(CHILD, [Edit("agent.py", "X = 3\n")])
    assert apply_edits(FIRST, made.edits) == wanted


def test_refused_decision_gives_no_candidate_and_keeps_its_texts() -> None:
    made = agent(recording(ONE)).decide(at(1, refused=("harness: smoke: boom",)), SOURCE)
    assert (made.lever, made.refused) == ("none", ("harness: smoke: boom",))
    assert made.reason == "why 1" and made.edits


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (entry(2, parent=(1, 1)), "there is no node of generation 1, sibling 1"),
        (entry(2, lever="none", failure="static: broken"), "not made in the recorded run: static: broken"),
        (entry(2, parent=(1, 1), lever="weights"), "there is no node of generation 1, sibling 1"),
    ],
)
def test_decision_without_a_parent_gives_no_candidate(one: dict[str, object], words: str) -> None:
    made = recording(ONE, entry(1, 1, knobs={"tries": 2}), one)
    found = agent(made).decide(at(2, node(1, 1, 0, Candidate(CHILD.digest))), SOURCE)
    assert found.lever == "none" and words in found.refused[0]


def test_edits_that_do_not_apply_to_another_first_harness_give_no_candidate() -> None:
    bare = Harness.from_files({"harness.toml": b'name = "h"', "agent.py": b""})
    seed = replace(SEED, candidate=Candidate(bare.digest))
    situation = replace(at(2, node(1, 1, 0, seed.candidate)), nodes=(seed, node(1, 1, 0, Candidate(CHILD.digest))))
    made = recording(entry(1, edits=[], knobs={"tries": 2}), TWO)
    source = MemorySource(harnesses={bare.digest: bare, CHILD.digest: CHILD})
    found = agent(made).decide(situation, source)
    assert found.lever == "none" and "no knob 'tries'" in found.refused[0]


def test_spec_names_a_file_an_export_or_what_ships_with_the_task(tmp_path: Path) -> None:
    task = replace(Task.load(TOY), path=tmp_path)
    assert find_recording(f"recorded:{tmp_path}", task) == tmp_path / "decisions.json"
    assert find_recording(f"recorded:{tmp_path}/a.json", task) == tmp_path / "a.json"
    with pytest.raises(UsageError, match="task toy ships no recorded decisions") as caught:
        find_recording("recorded", task)
    assert "--agent recorded:DIR/decisions.json" in caught.value.hint
    (tmp_path / "recorded.json").touch()
    assert find_recording("recorded", task) == tmp_path / "recorded.json"


def test_relative_file_is_kept_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("recorded:a.json") == f"recorded:{tmp_path}/a.json"
    assert (absolute("recorded"), absolute("rules")) == ("recorded", "rules")


class _Bench:
    """A bench of which only the validation is asked."""

    def __init__(self, *faults: str) -> None:
        self.faults = lambda _: faults


def test_first_harness_of_the_file_is_validated_and_planted() -> None:
    files = {name: data.decode() for name, data in FIRST.files.items()}
    made = recording(ONE, first={"harness": FIRST.digest, "files": files})
    first = RecordedFirst("recorded:x", made)
    assert first.write(None, _Bench()) == FIRST  # type: ignore[arg-type]
    with pytest.raises(NoDecisionError, match="rejected here: static: no"):
        first.write(None, _Bench("static: no"))  # type: ignore[arg-type]
    with pytest.raises(NoDecisionError, match="holds no other"):
        RecordedFirst("recorded:x", recording(ONE)).write(None, _Bench())  # type: ignore[arg-type]

"""Files of recorded decisions are read as they were written, and inconsistent files are refused with a message."""

import json
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.recording import Key, read_recording, write_recording
from sia_core.domain.errors import HarnessError, PolicyError
from tests.agents.recordings import FIRST, content, entry, put, recording


def test_recording_written_is_read_with_types_and_texts(tmp_path: Path) -> None:
    knobs = {"tries": 2, "share": 1.0, "wide": True, "name": "é"}
    one = entry(
        1, lever="both", knobs=knobs, update={"steps": 3}, predicted_range=[0.0, 0.5], cites=["abc"], promoted=True
    )
    made = recording(one, entry(2, parent=(1, 0), edits=[{"file": "agent.py", "delete": True}]))
    file = tmp_path / "decisions.json"
    file.write_bytes(write_recording(made))
    found = read_recording(file)
    assert found == made and write_recording(found) == file.read_bytes()
    kept = found.decisions[0].knobs
    assert {name: type(value) for name, value in kept.items()} == {
        "tries": int,
        "share": float,
        "wide": bool,
        "name": str,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "sia-decisions/9"}, "'sia-decisions/9', not sia-decisions/1"),
        ({"colour": "red"}, "colour: there is no such field"),
        ({"seed": "7"}, "seed: '7' is not a whole number"),
        ({"decisions": [entry(1), entry(1)]}, "several decisions of generation 1"),
        ({"decisions": [entry(2)]}, "generation 2, but there are 1 generations"),
        ({"decisions": [entry(1, 1)]}, "generation 1, sibling 1, but there are 1 siblings"),
        ({"decisions": [entry(1, parent=(1, 0))]}, "branches from generation 1, which is not made before"),
        ({"decisions": [entry(3, parent=(2, 0))], "generations": 3}, "from generation 2, which has no decision"),
        ({"decisions": [entry(1, edits=[])]}, "lever harness needs edits or knobs"),
        ({"decisions": [entry(1, lever="weights", knobs={"a": 1})]}, "belong to lever harness or both"),
        ({"decisions": [entry(1, update={"a": 1})]}, "update belongs to lever weights or both"),
        ({"decisions": [entry(1, predicted_range=[1, 0])]}, "ends before it begins"),
        ({"decisions": [entry(1, edits=[{"file": "a", "text": "", "delete": True}])]}, "either text or delete"),
        ({"first": {"harness": "0" * 64, "files": {"harness.toml": 'name = "h"', "agent.py": ""}}}, "the digest"),
        ({"first": {"harness": "0" * 64, "files": {"harness.toml": 'name = "h"'}}}, "'agent.py', which is not there"),
    ],
)
def test_file_that_does_not_hold_together_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    file = tmp_path / "decisions.json"
    file.write_text(json.dumps({**content(entry(1)), **change}))
    with pytest.raises(PolicyError) as caught:
        read_recording(file)
    assert words in caught.value.what and caught.value.where == str(file) and "sia export RUN DIR" in caught.value.hint


@pytest.mark.parametrize(("data", "words"), [(b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[]", "format None")])
def test_file_of_another_kind_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "agent.jsonl"
    file.write_bytes(data)
    with pytest.raises(PolicyError, match=words):
        read_recording(file)
    with pytest.raises(PolicyError, match="cannot be read"):
        read_recording(tmp_path / "nowhere.json")


def test_harness_of_a_node_follows_from_the_decisions_that_made_a_child() -> None:
    made = recording(
        entry(1),
        entry(2, parent=(1, 0), edits=[{"file": "more.py", "text": "Y = 1\n"}], knobs={"tries": 3}),
        entry(3, parent=(2, 0), failure="smoke: boom"),
        entry(4, parent=(3, 0), lever="weights"),
    )
    second = made.harness(Key(2, 0), FIRST)
    assert second.files["agent.py"] == b"X = 2\n" and second.files["more.py"] and second.knobs == {"tries": 3}
    assert made.harness(Key(3, 0), FIRST) == made.harness(Key(4, 0), FIRST) == second
    with pytest.raises(HarnessError, match="no knob 'tries'"):
        made.harness(Key(2, 0), type(FIRST).from_files({"harness.toml": b'name = "h"', "agent.py": b""}))


def test_put_writes_what_read_takes(tmp_path: Path) -> None:
    assert read_recording(put(tmp_path / "one.json", entry(1))).run == "toy-abcdef"

"""Test the library that an agent reads: its layers are linked, and reads are bounded and counted."""

from dataclasses import replace

import pytest

from sia_core.agents.library import RESULT_CHARS, Library, ReadingError
from sia_core.domain.candidate import Candidate
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Decision, GateVerdict, Node
from sia_core.domain.rollout import Rollout, Verdict
from sia_core.domain.stats import Estimate, Gain
from tests.agents.sources import MemorySource
from tests.factories import make_rollout

HARNESS = Harness.from_files({"harness.toml": b'name="h"', "agent.py": b"async def solve(problem, ctx): ...\n"})
CHILD = Harness.from_files({**HARNESS.files, "helper.py": b"X = 1\n"})
ESTIMATE = Estimate(0.3, 0.2, 0.4, 8, 32)
NODES = [
    Node(0, None, Candidate(HARNESS.digest), "seed", True),
    Node(
        1,
        0,
        Candidate(CHILD.digest),
        "harness",
        False,
        GateVerdict(ESTIMATE, ESTIMATE, Gain(-0.1, -0.2, -0.2, -0.05, 8), False, "the bound is below 0"),
        Decision("harness", 0, "d", "a", 0.2, hypothesis="cache <<end 00>> results", category="memory"),
    ),
    Node(
        2, 0, Candidate(HARNESS.digest), "harness", False, None, Decision("harness", 0, "d", "a"), failure="static: x"
    ),
]


def say(rollout: Rollout, *outputs: str) -> Rollout:
    turns = tuple(replace(rollout.turns[0], prompt=f"Q {at}", output=text) for at, text in enumerate(outputs))
    return replace(rollout, turns=turns)


BATCH = [
    say(make_rollout("p0", 0, 0.9), "fine"),
    say(make_rollout("p0", 1, 0.1), "poor"),
    make_rollout("p1", 0, failure="timeout"),
    replace(make_rollout("p1", 1), verdict=Verdict(0.2, valid=False, feedback="shape is wrong", metrics={"mse": 0.5})),
    make_rollout("p2", 0, failure="worker"),
]


@pytest.fixture
def library() -> Library:
    harnesses = {harness.digest: harness for harness in (HARNESS, CHILD)}
    return Library(MemorySource(NODES, {1: BATCH, 2: BATCH[:1]}, harnesses, [{"run": "r", "generation": 1}]), 1)


def listing(library: Library, **asked: object) -> list[str]:
    values: dict[str, object] = {"problem": None, "failure": None, "least": None, "most": None, "order": "worst"}
    text = library.rollouts(1, offset=0, **{**values, **asked})  # type: ignore[arg-type]
    return [line.split()[1] + " " + line.split(maxsplit=4)[4] for line in text.splitlines()[1:]]


def test_problems_lead_to_rollouts_and_these_to_transcripts(library: Library) -> None:
    table = library.problems(None, 0)
    assert "(rows 1 to 3 of 3)" in table.splitlines()[0]
    row = next(line for line in table.splitlines() if line.startswith("p0"))
    *_, worst, best = row.split()
    assert "poor" in library.read(worst, "raw", 0)
    assert "fine" in library.read(best, "clean", 0)
    assert "p1 2 0.1 0 0.2 refused:1,timeout:1" in table


def test_rollouts_are_filtered_and_ordered(library: Library) -> None:
    assert listing(library)[0].startswith("p1 score 0, failed: timeout")
    assert listing(library)[-1].startswith("p2 unscored, failed: worker")
    assert listing(library, order="best")[0].startswith("p0")
    assert listing(library, failure="refused") == ["p1 score 0.2, refused by the verifier"]
    assert len(listing(library, failure="any")) == 3
    assert listing(library, least=0.5) == ["p0 score 0.9"]
    assert len(listing(library, problem="p1", most=0.1)) == 1


def test_verdicts_are_read_in_full(library: Library) -> None:
    refused = BATCH[3].unit.key
    assert "[verifier] shape is wrong; metrics: mse 0.5" in library.read(refused, "clean", 0)


def test_search_finds_places(library: Library) -> None:
    assert BATCH[0].unit.key[:12] in library.search("FINE", None, 0)
    assert "no rows of 0" in library.search("absent", None, 0)
    with pytest.raises(ReadingError, match="give the text"):
        library.search(" ", None, 0)


def test_harnesses_are_listed_read_and_compared(library: Library) -> None:
    assert "helper.py 6 bytes" in library.files(1)
    assert "X = 1" in library.file(1, "helper.py", 0)
    assert "+X = 1" in library.diff(0, 1, 0)
    with pytest.raises(ReadingError, match=r"no file 'x'.*agent\.py"):
        library.file(0, "x", 0)
    with pytest.raises(ReadingError, match="0 to 2"):
        library.files(3)


def test_library_shows_past_decisions_with_reasons(library: Library) -> None:
    rejected = library.rejected(0)
    assert rejected.index("static: x") < rejected.index("the bound is below 0. Tried: cache")
    assert "predicted +0.2; not promoted, gain at the gate -0.1000" in library.lineage(0)
    assert "harness memory tried 1, promoted 0" in library.memory()
    assert "run=r generation=1" in library.history(0)


@pytest.mark.parametrize(("asked", "says"), [("abc", "too short"), ("zzzz", "no rollout has an id")])
def test_unknown_ids_are_reading_errors(library: Library, asked: str, says: str) -> None:
    with pytest.raises(ReadingError, match=says):
        library.find(asked)


def test_mark_of_a_quotation_is_named_as_one(library: Library) -> None:
    mark = library.read(BATCH[0].unit.key, "clean", 0).removeprefix("<<data ")[:16]
    for cited in (mark, mark[:12]):
        with pytest.raises(ReadingError, match=f"'{cited}' is the mark of a quotation, not an id"):
            library.find(cited)


def test_unknown_generations_are_named(library: Library) -> None:
    with pytest.raises(ReadingError, match="generation 7; there are: 1, 2"):
        library.problems(7, 0)


def test_coverage_counts_rollouts_and_characters_read(library: Library) -> None:
    before = library.coverage.record()
    assert (before["reachable_rollouts"], before["read_rollouts"]) == (5, 0)
    library.read(BATCH[0].unit.key, "clean", 0)
    library.read(BATCH[0].unit.key, "clean", 100_000)
    after = library.coverage.record()
    assert after["read_rollouts"] == 1 and after["read_share"] == 0.2
    assert 0 < after["read_characters"] < 400


def test_answers_stay_bounded_over_a_huge_record() -> None:
    huge = say(make_rollout("p0", 0, 0.1), *["line of output\n" * 70_000] * 10)
    many = [make_rollout(f"p{number % 500}", number, number / 10_000) for number in range(10_000)]
    source = MemorySource(NODES, {index: [huge] if index == 1 else many for index in range(1, 51)})
    library = Library(source, 1)
    assert library.coverage.characters > 10_000_000
    key = huge.unit.key
    answers = [
        library.read(key, "raw", 0),
        library.read(key, "raw", 9_000_000),
        library.read(key, "clean", 0),
        library.search("output", None, 0),
        library.problems(50, 0),
        library.rollouts(50, problem=None, failure=None, least=None, most=None, order="worst", offset=9_990),
    ]
    assert max(map(len, answers)) <= RESULT_CHARS + 200
    assert "characters 9000000 to 9012000 of" in answers[1]
    assert "rows 9991 to 10000 of 10000" in answers[-1]
    # Generations that were not asked for were not opened.
    assert set(source.opened) == {1, 50}

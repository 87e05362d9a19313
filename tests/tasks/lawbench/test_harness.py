"""The seed harness, through the real engine: every knob setting answers from its menu what the policy drew."""

import ast
import re

import pytest

from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.task import Task
from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.worker import RolloutRunner
from tasks.lawbench.splits import splits
from tests.tasks.lawbench.corpus import CHARGES
from tests.tasks.lawbench.players import Replies, play


@pytest.fixture(scope="module")
def harness(task: Task) -> Harness:
    return Harness.load(task.path / task.config.harness)


def settings(harness: Harness) -> list[dict[str, KnobValue]]:
    """Every knob moved to each of its values, with and without a short menu, and all at their richest."""
    found: list[dict[str, KnobValue]] = [{}]
    for name, knob in harness.config.knobs.items():
        found += [{"candidates": menu, name: value} for menu in ("all", "similar") for value in knob.options or ()]
    richest = {name: (knob.options or (knob.value,))[-1] for name, knob in harness.config.knobs.items()}
    return [*found, richest]


def test_knobs_are_explained_and_begin_zero_shot(harness: Harness) -> None:
    assert all(knob.help for knob in harness.config.knobs.values())
    assert (harness.knobs["candidates"], harness.knobs["votes"]) == ("all", 1)


def test_every_setting_answers_what_the_policy_said(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    problem = task.problems("train")[0]
    for number, moved in enumerate(settings(harness)):
        done = play(task, runner, harness.with_knobs(moved), Replies(), problem, number)
        assert done.verdict is not None and done.verdict.valid, (moved, done.verdict)
        assert len(done.turns) == moved.get("votes", 1)


def test_zero_shot_offers_every_charge_and_shows_the_opening_only(
    task: Task, runner: RolloutRunner, harness: Harness
) -> None:
    problem = task.problems("train")[1]
    (turn,) = play(task, runner, harness, Replies(), problem).turns
    assert turn.options == CHARGES
    assert problem.public["text"][:64] in turn.prompt
    assert problem.public["text"][64:80] not in turn.prompt


def test_short_menu_is_ranked_numbered_and_shown(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    knobs: dict[str, KnobValue] = {"candidates": "similar", "ranking": "centroids", "length": 3}
    right = 0
    for problem in task.problems("gate")[:12]:
        done = play(task, runner, harness.with_knobs(knobs), Replies(first=True), problem)
        options = done.turns[0].options
        assert options is not None and [option[:3] for option in options] == ["1. ", "2. ", "3. "]
        assert all(f"\n{option}" in done.turns[0].prompt for option in options)
        right += done.score == 1.0
    assert right >= 8, "copying the first candidate is nearly always right on this corpus"


def test_support_and_examples_quote_the_library_and_never_the_problem(
    task: Task, runner: RolloutRunner, harness: Harness
) -> None:
    knobs: dict[str, KnobValue] = {"candidates": "similar", "support": "on", "examples": "on"}
    openings = {case.text[:16] for case in splits().library}
    for problem in task.problems("train")[:5]:
        prompt = play(task, runner, harness.with_knobs(knobs), Replies(), problem).turns[0].prompt
        lines = re.findall(r"^\d\. \S+ \((\d+)/10\): (.{16})", prompt, re.MULTILINE)
        assert len(lines) == 5
        assert sum(int(support) for support, _ in lines) <= 10
        assert {quote for _, quote in lines} <= openings
        assert problem.public["text"][:16] not in {quote for _, quote in lines}


def test_most_frequent_vote_is_the_answer(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    done = play(task, runner, harness.with_knobs({"votes": 5}), Replies(), task.problems("train")[2])
    said = [turn.output for turn in done.turns]
    assert len(said) == 5
    assert said.count(done.answer["label"]) == max(map(said.count, said))


@pytest.mark.parametrize("moved", [{}, {"candidates": "similar", "votes": 3}])
def test_harness_ends_by_itself_under_every_policy(
    task: Task, runner: RolloutRunner, harness: Harness, moved: dict[str, KnobValue]
) -> None:
    made = harness.with_knobs(moved)
    assert check_import(runner, made).passed
    ids = [problem.id for problem in task.problems("train")[:2]]
    report = check_contract(runner, task, ids, made, None)
    assert report.passed, report
    assert not report.details, report.details


def test_files_of_the_harness_hold_no_case_or_answer(task: Task, harness: Harness) -> None:
    for data in harness.files.values():
        text = data.decode()
        assert not any(charge in text for charge in CHARGES if len(charge) > 4)
        assert not any(problem.public["text"][:12] in text for problem in task.problems("test"))


def test_harness_imports_what_its_manifest_declares(harness: Harness) -> None:
    found = set()
    for name, data in harness.files.items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(data)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module).split(".")[0])
    assert found - {"collections", "typing", "json", "pathlib"} == {"retrieval", "numpy"}
    assert set(harness.config.modules) == {"numpy"}

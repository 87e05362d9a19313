"""The seed harness: every knob setting answers from its menu, and scripted replies go through the real engine."""

import ast
import random
import re
from collections.abc import Iterator, Sequence

import pytest

from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.worker import RolloutRunner
from sia_core.errors import SandboxError
from sia_core.harness import Harness, KnobValue
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.scripted import ScriptedPolicy, render
from sia_core.rollout import Rollout, Unit
from sia_core.task import Problem, Task
from tasks.lawbench.splits import splits
from tests.tasks.lawbench.corpus import CHARGES


class Replies(ScriptedPolicy):
    """Free replies in the order given, the last one again and again; choices at random, or the first."""

    def __init__(self, *texts: str, first: bool = False) -> None:
        self._texts = list(texts)
        self._first = first
        self.asked: list[Request] = []

    def sample(self, request: Request) -> Completion:
        self.asked.append(request)
        if request.options is not None:
            options = request.options
            drawn = options[0] if self._first else random.Random(request.seed).choice(options)
            return Completion(drawn, render(request.messages))
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        return Completion(text, render(request.messages))


@pytest.fixture(scope="module")
def harness(task: Task) -> Harness:
    return Harness.load(task.path / task.config.harness)


@pytest.fixture(scope="module")
def runner(task: Task) -> Iterator[RolloutRunner]:
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    runner = RolloutRunner(task, "strict")
    yield runner
    runner.close()


def play(
    task: Task, runner: RolloutRunner, harness: Harness, policy: ScriptedPolicy, problem: Problem, seed: int = 0
) -> Rollout:
    unit = Unit(task.digest, harness.digest, policy.digest, None, problem.split, problem.id, seed)
    done = runner.run(unit, harness, None, policy)
    assert done.failure is None, (done.failure, done.notes)
    assert done.verdict is not None
    return done


def settings(harness: Harness) -> list[dict[str, KnobValue]]:
    """Every single knob moved to each of its values, with and without a short menu; and all at their richest."""
    found: list[dict[str, KnobValue]] = [{}]
    for name, knob in harness.config.knobs.items():
        found += [{"candidates": menu, name: value} for menu in ("all", "similar") for value in knob.options or ()]
    richest = {name: (knob.options or (knob.value,))[-1] for name, knob in harness.config.knobs.items()}
    return [*found, {**richest, "reply": "choose"}]


def test_knobs_are_explained_and_begin_zero_shot(harness: Harness) -> None:
    assert all(knob.help for knob in harness.config.knobs.values())
    assert (harness.knobs["candidates"], harness.knobs["votes"], harness.knobs["reply"]) == ("all", 1, "choose")


def test_every_setting_answers_what_the_policy_said(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    problem = task.problems("train")[0]
    for number, moved in enumerate(settings(harness)):
        policy = Replies(f"理由。\n{CHARGES[number % len(CHARGES)]}")
        done = play(task, runner, harness.with_knobs(moved), policy, problem, number)
        assert done.verdict is not None and done.verdict.valid, (moved, done.verdict)
        assert len(done.turns) == moved.get("votes", 1) or moved == settings(harness)[-1]


def test_zero_shot_offers_every_charge_and_shows_the_opening_only(
    task: Task, runner: RolloutRunner, harness: Harness
) -> None:
    problem = task.problems("train")[1]
    (turn,) = play(task, runner, harness, Replies(""), problem).turns
    assert turn.options == CHARGES
    assert problem.public["text"][:64] in turn.prompt
    assert problem.public["text"][64:80] not in turn.prompt


def test_a_short_menu_is_ranked_numbered_and_shown(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    knobs: dict[str, KnobValue] = {"candidates": "similar", "ranking": "centroids", "length": 3}
    right = 0
    for problem in task.problems("gate")[:12]:
        done = play(task, runner, harness.with_knobs(knobs), Replies("", first=True), problem)
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
        prompt = play(task, runner, harness.with_knobs(knobs), Replies(""), problem).turns[0].prompt
        lines = re.findall(r"^\d\. \S+ \((\d+)/10\): (.{16})", prompt, re.MULTILINE)
        assert len(lines) == 5
        assert sum(int(support) for support, _ in lines) <= 10
        assert {quote for _, quote in lines} <= openings
        assert problem.public["text"][:16] not in {quote for _, quote in lines}


def test_the_most_frequent_vote_is_the_answer(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    done = play(task, runner, harness.with_knobs({"votes": 5}), Replies(""), task.problems("train")[2])
    said = [turn.output for turn in done.turns]
    assert len(said) == 5
    assert said.count(done.answer["label"]) == max(map(said.count, said))


@pytest.mark.parametrize(
    ("replies", "turns", "answer"),
    [
        (["他拿走了财物。\n盗窃"], 1, "盗窃"),
        (["罪名：盗窃罪"], 1, "盗窃"),
        (["走私、贩卖、运输、制造毒品"], 1, "[走私、贩卖、运输、制造]毒品"),
        (["也许是盗窃或抢劫", "抢劫罪"], 2, "抢劫"),
        (["theft", "偷东西", "盗窃"], 3, "盗窃"),
        (["theft"], 3, None),
        ([""], 3, None),
    ],
)
def test_free_replies_are_read_and_asked_for_again(
    task: Task, runner: RolloutRunner, harness: Harness, replies: Sequence[str], turns: int, answer: str | None
) -> None:
    policy = Replies(*replies)
    done = play(task, runner, harness.with_knobs({"reply": "chat"}), policy, task.problems("train")[3])
    assert done.answer == {"label": answer}
    assert len(done.turns) == turns
    assert done.verdict is not None
    if answer is None:
        assert done.verdict.metrics == {"abstained": 1.0}
    else:
        assert done.verdict.valid and done.verdict.metrics["offered"] == len(CHARGES)
    last = policy.asked[-1].messages
    assert len(last) == 2 * turns - 1
    assert [message["content"] for message in last[1::2]] == list(replies[: turns - 1]) or len(replies) == 1


def test_free_replies_vote_too(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    chat = harness.with_knobs({"reply": "chat", "votes": 3})
    done = play(task, runner, chat, Replies("盗窃", "抢劫", "盗窃"), task.problems("train")[4])
    assert done.answer == {"label": "盗窃"}
    assert done.verdict is not None and done.verdict.metrics["votes"] == 3.0


def test_the_menu_of_a_free_reply_is_the_short_one_where_there_is_one(
    task: Task, runner: RolloutRunner, harness: Harness
) -> None:
    problem = task.problems("train")[5]
    policy = Replies("盗窃")
    play(task, runner, harness.with_knobs({"reply": "chat"}), policy, problem)
    assert all(charge in policy.asked[0].messages[0]["content"] for charge in CHARGES)
    short = Replies("盗窃")
    play(task, runner, harness.with_knobs({"reply": "chat", "candidates": "similar", "length": 3}), short, problem)
    prompt = short.asked[0].messages[0]["content"]
    assert sum(f"\n{charge}\n" in prompt for charge in CHARGES) == 3


@pytest.mark.parametrize("moved", [{}, {"candidates": "similar"}, {"reply": "chat"}])
def test_it_ends_by_itself_whatever_the_policy_does(
    task: Task, runner: RolloutRunner, harness: Harness, moved: dict[str, KnobValue]
) -> None:
    made = harness.with_knobs(moved)
    assert check_import(runner, made).passed
    ids = [problem.id for problem in task.problems("train")[:2]]
    report = check_contract(runner, task, ids, made, None)
    assert report.passed, report
    assert not report.details, report.details


def test_no_file_of_it_holds_a_case_or_an_answer(task: Task, harness: Harness) -> None:
    for data in harness.files.values():
        text = data.decode()
        assert not any(charge in text for charge in CHARGES if len(charge) > 4)
        assert not any(problem.public["text"][:12] in text for problem in task.problems("test"))


def test_it_imports_what_it_declares(harness: Harness) -> None:
    found = set()
    for name, data in harness.files.items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(data)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module).split(".")[0])
    third_party = found - {"collections", "dataclasses", "typing", "json", "pathlib", "re", "unicodedata"}
    assert third_party == {"charges", "retrieval", "numpy"}
    assert set(harness.config.modules) == {"numpy"}

"""Verdicts match exactly, count wrong kinds apart, and on the track llm credit only sampled answers."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from sia_core.domain.rollout import Turn, Verdict
from sia_core.domain.task import Problem, Task
from tasks.lawbench import settings
from tasks.lawbench.task import MAX_CHARS
from tests.tasks.lawbench.corpus import CHARGES


def chose(output: str, options: Sequence[str] = CHARGES) -> Turn:
    """A choice as the gateway records it."""
    return Turn("choose", "prompt", output, None, 1.0, options=tuple(options))


def replied(output: str) -> Turn:
    """A free reply as the gateway records it."""
    return Turn("chat", "prompt", output, None, 1.0)


def verify(task: Task, problem: Problem, answer: Any, *turns: Turn) -> Verdict:
    return task.verify(problem, answer, None, turns)  # type: ignore[arg-type]  # uses no lab


@pytest.fixture
def gold(problem: Problem) -> str:
    label: str = problem.private.case.label
    return label


@pytest.fixture
def other(gold: str) -> str:
    return next(charge for charge in CHARGES if charge != gold)


def test_right_charge_drawn_from_all_scores_one(task: Task, problem: Problem, gold: str) -> None:
    verdict = verify(task, problem, {"label": gold}, chose(gold))
    assert (verdict.score, verdict.valid, verdict.metrics["offered"]) == (1.0, True, float(len(CHARGES)))


def test_wrong_charge_scores_nothing_and_the_right_one_is_not_named(
    task: Task, problem: Problem, gold: str, other: str
) -> None:
    verdict = verify(task, problem, {"label": other}, chose(other))
    assert (verdict.score, verdict.valid) == (0.0, True)
    assert gold not in verdict.feedback


@pytest.mark.parametrize(
    "answer", [None, {}, [], "盗窃", 7, {"label": None}, {"label": ""}, {"label": 3}, {"label": ["盗窃"]}]
)
def test_missing_label_is_an_abstention(task: Task, problem: Problem, answer: Any) -> None:
    verdict = verify(task, problem, answer, *map(chose, CHARGES))
    assert (verdict.score, verdict.valid, verdict.metrics) == (0.0, False, {"abstained": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        lambda label: f" {label}",
        lambda label: f"{label}\n",
        lambda label: f"{label}罪",
        lambda label: f"{label}\u200b",
        lambda label: label + "\ud800",
        lambda label: label.replace("、", ","),
        lambda label: label * (MAX_CHARS + 1),
        lambda label: label + "x" * 2_000_000,
        lambda _: "theft",
        lambda _: "\x00",
    ],
)
def test_out_of_the_list_by_one_letter_is_wrong_and_counted(task: Task, problem: Problem, change: Any) -> None:
    problem = next(one for one in task.problems("train") if "、" in one.private.case.label)
    answer = change(problem.private.case.label)
    verdict = verify(task, problem, {"label": answer}, replied(answer))
    assert (verdict.score, verdict.valid, verdict.metrics) == (0.0, False, {"out_of_list": 1.0})
    assert len(verdict.feedback) < 200


def test_answer_that_was_not_sampled_is_not_credited_to_the_policy(
    task: Task, problem: Problem, gold: str, other: str
) -> None:
    for turns in ([], [chose(other)], [replied("I do not know")], [replied(f"{gold}?\nno")]):
        verdict = verify(task, problem, {"label": gold}, *turns)
        assert (verdict.score, verdict.valid, verdict.metrics["unproven"]) == (0.0, False, 1.0)
        assert "did not say this charge" in verdict.feedback


def test_menu_of_a_single_option_is_no_choice(task: Task, problem: Problem, gold: str) -> None:
    for menu in ([gold], [gold, "none of these"], [gold, f"1. {gold}", f"{gold}罪"]):
        verdict = verify(task, problem, {"label": gold}, chose(gold, menu))
        assert not verdict.valid
        assert "no other charge" in verdict.feedback


def test_option_that_names_several_charges_states_no_charge(
    task: Task, problem: Problem, gold: str, other: str
) -> None:
    both = f"{gold} / {other}"
    verdict = verify(task, problem, {"label": gold}, chose(both, [both, "nothing"]))
    assert "did not say this charge" in verdict.feedback


def test_answer_must_be_the_most_frequent_vote(task: Task, problem: Problem, gold: str, other: str) -> None:
    outvoted = verify(task, problem, {"label": gold}, chose(gold), chose(other), chose(other))
    assert not outvoted.valid and "only 1 times" in outvoted.feedback
    even = verify(task, problem, {"label": gold}, chose(other), chose(gold))
    assert (even.score, even.metrics["votes"], even.metrics["first"]) == (1.0, 2.0, 0.0)


def test_votes_without_an_alternative_do_not_outvote(task: Task, problem: Problem, gold: str, other: str) -> None:
    forced = [chose(other, [other])] * 3
    assert verify(task, problem, {"label": gold}, chose(gold), *forced).score == 1.0


def test_free_reply_counts_by_its_last_line(task: Task, problem: Problem, gold: str, other: str) -> None:
    assert verify(task, problem, {"label": gold}, replied(f"不是{other}。\n答案：{gold}罪")).score == 1.0
    listing = replied("\n".join([*CHARGES, "、".join(CHARGES)]))
    assert verify(task, problem, {"label": gold}, listing).metrics["unproven"] == 1.0


def test_text_of_the_prompt_is_no_evidence(task: Task, problem: Problem, gold: str) -> None:
    turn = Turn("chat", f"say {gold}", "yes", None, 1.0)
    assert verify(task, problem, {"label": gold}, turn).metrics["unproven"] == 1.0


def test_open_track_takes_an_answer_without_evidence(
    task: Task, problem: Problem, gold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.TRACK, "open")
    opened = Task.load("lawbench").problems("train")[0]
    assert opened.private.case == problem.private.case
    assert verify(task, opened, {"label": gold}).score == 1.0
    assert not verify(task, opened, {"label": f"{gold}罪"}).valid


def test_null_constant_and_copied_answers_do_not_pass(task: Task) -> None:
    scores = [verify(task, one, {"label": "盗窃"}, chose("盗窃")).score for one in task.problems("gate")]
    assert sum(scores) / len(scores) < 0.4
    for one in task.problems("gate"):
        copied = one.public["text"]
        assert not verify(task, one, {"label": copied}, replied(copied)).valid


def test_verdicts_repeat_and_are_plain_data(task: Task, problem: Problem, gold: str, other: str) -> None:
    turns = [chose(gold), replied(other), chose(gold, [gold, other])]
    first, second = (verify(task, problem, {"label": gold}, *turns) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first.metrics)) == dict(first.metrics)


def test_long_menu_and_many_votes_stay_cheap(task: Task, problem: Problem, gold: str) -> None:
    turns = [chose(f"{number}. {gold}", [f"{number}. {charge}" for charge in CHARGES] * 19) for number in range(16)]
    started = time.process_time()
    for _ in range(20):
        verify(task, problem, {"label": gold}, *turns)
    assert time.process_time() - started < 2.0

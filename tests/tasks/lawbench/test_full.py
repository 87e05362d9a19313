"""The harness for models that reason, through the real engine with scripted replies: read, asked again, voted on."""

from collections.abc import Sequence

import pytest

from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.task import Task
from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.worker import RolloutRunner
from tasks.lawbench.splits import plain, splits
from tests.tasks.lawbench.corpus import CHARGES
from tests.tasks.lawbench.players import Replies, play


@pytest.fixture(scope="module")
def harness(task: Task) -> Harness:
    return Harness.load(task.path / "full" / "harness")


def test_full_harness_has_the_retrieval_of_the_seed_harness(task: Task, harness: Harness) -> None:
    assert harness.files["retrieval.py"] == (task.path / "harness" / "retrieval.py").read_bytes()
    assert all(knob.help for knob in harness.config.knobs.values())


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
    done = play(task, runner, harness, policy, task.problems("train")[3])
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


def test_free_replies_count_as_votes(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    done = play(
        task, runner, harness.with_knobs({"votes": 3}), Replies("盗窃", "抢劫", "盗窃"), task.problems("train")[4]
    )
    assert done.answer == {"label": "盗窃"}
    assert done.verdict is not None and done.verdict.metrics["votes"] == 3.0


def test_free_reply_gets_the_short_menu_where_it_exists(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    problem = task.problems("train")[5]
    policy = Replies("盗窃")
    play(task, runner, harness, policy, problem)
    assert all(charge in policy.asked[0].messages[0]["content"] for charge in CHARGES)
    short = Replies("盗窃")
    play(task, runner, harness.with_knobs({"candidates": "similar", "length": 5}), short, problem)
    prompt = short.asked[0].messages[0]["content"]
    assert sum(f"\n{charge}\n" in prompt for charge in CHARGES) == 5


@pytest.mark.parametrize("number", [5, 20])
def test_similar_cases_are_quoted_with_their_charges(
    task: Task, runner: RolloutRunner, harness: Harness, number: int
) -> None:
    problem, policy = task.problems("gate")[0], Replies("盗窃")
    play(task, runner, harness.with_knobs({"examples": number}), policy, problem)
    prompt = policy.asked[0].messages[0]["content"]
    quoted = [case for case in splits().library if f"{case.text}\n罪名：{case.label}" in prompt]
    assert len(quoted) == number
    assert problem.public["text"] in prompt
    assert plain(problem.public["text"]) not in {plain(case.text) for case in quoted}


def test_braces_in_a_case_are_text(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    odd: dict[str, KnobValue] = {"examples": 5}
    assert play(task, runner, harness.with_knobs(odd), Replies("{case} {0}\n盗窃"), task.problems("train")[0]).answer


def test_full_harness_ends_by_itself_under_every_policy(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    assert check_import(runner, harness).passed
    report = check_contract(runner, task, [problem.id for problem in task.problems("train")[:2]], harness, None)
    assert report.passed, report
    assert not report.details, report.details


def test_budget_lets_every_vote_be_asked_for_again(task: Task, runner: RolloutRunner, harness: Harness) -> None:
    policy = Replies("no", "no", "no", "no", "no", *["never"] * 9, "盗窃")
    done = play(task, runner, harness.with_knobs({"votes": 5}), policy, task.problems("train")[6])
    assert len(done.turns) == 15
    assert done.answer == {"label": "盗窃"}

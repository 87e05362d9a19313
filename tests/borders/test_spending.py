"""Nothing is spent where nothing can come of it, and `--dry-run` prints the numbers that a run then takes."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.deployments import ArmsForm, EvolveForm
from sia_core.agents.rules import RulesAgent
from sia_core.cli.main import app
from sia_core.domain.errors import SiaError, TaskError, UsageError
from sia_core.domain.lineage import SEED_NODE, Decision
from sia_core.domain.plan import plan_rollouts
from sia_core.domain.task import Task
from sia_core.loop.analyze import analyze
from sia_core.loop.configure import build_config, change_config
from sia_core.loop.execute import execute
from sia_core.loop.improve import improve
from sia_core.loop.levers import objections
from sia_core.loop.sealed_test import seal
from sia_core.loop.session import Session
from sia_core.loop.splits import check_splits, remarks, sizes_of
from sia_core.loop.stopping import run_generations
from sia_core.search.arms import plan_arms
from tests.factories import TOY
from tests.loop.in_process import open_session

UNTRAINABLE = ("scripted", "openai:gpt@http://127.0.0.1:9/v1", "anthropic:m@http://127.0.0.1:9")


def dry_run(task: str | Path, *words: str, policy: str = "scripted") -> str:
    """Print the plan of a run, which must not fail."""
    done = CliRunner().invoke(app, ["run", str(task), "--policy", policy, "--sandbox", "none", *words, "--dry-run"])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def variant(folder: Path, counts: dict[str, int], toml: str = "") -> Path:
    """A copy of the toy with other numbers of problems, and more lines at the end of its task.toml."""
    toy = folder / "toy"
    shutil.copytree(TOY, toy)
    text = (toy / "task.py").read_text()
    (toy / "task.py").write_text(re.sub(r"COUNTS = \{.*\}", f"COUNTS = {counts!r}", text))
    with (toy / "task.toml").open("a") as file:
        file.write(toml)
    return toy


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")


@pytest.mark.parametrize("levers", ["weights", "harness,weights", "both"])
@pytest.mark.parametrize("policy", UNTRAINABLE)
def test_weights_of_a_policy_without_weights_are_refused_before_the_run(policy: str, levers: str) -> None:
    with pytest.raises(UsageError, match="cannot be trained") as caught:
        build_config(TOY, policy=policy, levers=levers)
    assert policy in str(caught.value) and "--levers harness" in caught.value.hint and "local:DIR" in caught.value.hint


def test_weights_of_a_replayed_policy_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be trained"):
        build_config(TOY, policy=f"replay:{tmp_path / 'log.jsonl'}", levers="weights")


def test_weights_in_a_form_are_refused_before_the_run() -> None:
    with pytest.raises(UsageError, match="cannot be trained"):
        EvolveForm(task=TOY, policy="scripted", levers="weights").config()
    assert EvolveForm(task=TOY, policy="scripted").config().levers == ("harness",)


def test_weights_in_a_child_run_are_refused_before_the_run() -> None:
    parent = build_config(TOY, policy="scripted")
    with pytest.raises(UsageError, match="cannot be trained"):
        change_config(parent, {"levers": "weights"})


def test_levers_left_out_are_those_that_the_policy_has(tiny_model: Path) -> None:
    assert build_config(TOY, policy="scripted").levers == ("harness",)
    assert build_config(TOY, policy=f"local:{tiny_model}").levers == ("harness", "weights")
    assert build_config(TOY, policy=f"local:{tiny_model}", levers="both").levers == ("harness", "weights")
    assert build_config(TOY, policy="scripted", levers="harness").levers == ("harness",)


def test_dry_run_without_levers_given_names_the_lever_that_is_left_out() -> None:
    output = dry_run(TOY)
    assert "levers: harness (policy scripted cannot be trained)" in output and "  update" not in output


@pytest.mark.parametrize("name", ["weights", "alternate"])
def test_arm_that_trains_an_untrainable_policy_is_refused_or_left_out(name: str) -> None:
    config = build_config(TOY, policy="scripted")
    with pytest.raises(UsageError, match="cannot be trained"):
        plan_arms(config, ["harness", name], seeds=1)
    assert name not in plan_arms(config, [], seeds=1).arms
    with pytest.raises(UsageError, match="cannot be trained"):
        ArmsForm(task=TOY, policy="scripted", arms=name).plan()


@pytest.mark.parametrize("lever", ["weights", "both"])
def test_decision_to_train_an_untrainable_policy_is_refused_without_cost(
    tmp_path: Path, empty_store: Path, lever: Any
) -> None:
    with open_session(tmp_path, empty_store) as session:
        played = len(session.engine.played)  # type: ignore[attr-defined]
        decision = Decision(lever, 0, "because", "test", knobs={"n": 2} if lever == "both" else {})
        found = objections(
            session, decision, session.run.nodes()[SEED_NODE], session.run.generation(1).rollouts("train")
        )
        assert any("cannot be trained" in one for one in found), found
        assert len(session.engine.played) == played  # type: ignore[attr-defined]


def test_run_without_levers_plans_a_single_generation_and_one_sealed_side() -> None:
    config = build_config(TOY, policy="scripted", levers="")
    plan = plan_rollouts(config, Task.load(TOY).config.update)
    assert config.generations == 1
    assert (plan.execute, plan.gate, plan.validation, plan.update, plan.sealed) == (16, 0, 0, 0, 72)
    output = dry_run(TOY, "--levers", "")
    assert "at most 88 rollouts" in output and "1 generation," in output and "  agent" not in output


def test_generations_without_levers_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="without a lever") as caught:
        build_config(TOY, policy="scripted", levers="", generations=3)
    assert "--generations" in str(caught.value) and "--rollouts" in caught.value.hint
    parent = build_config(TOY, policy="scripted", levers="")
    assert build_config(TOY, policy="scripted", levers="", generations=1) == parent


def test_recorded_run_without_levers_executes_once(tmp_path: Path, empty_store: Path) -> None:
    with open_session(tmp_path, empty_store, generations=4, levers=()) as session:
        run_generations(session, lambda index: _play(session, index))
        seal(session)
        assert [node.lever for node in session.run.nodes()] == ["seed", "none"]
        splits = Counter(unit.split for unit in session.engine.played)  # type: ignore[attr-defined]
        assert splits == {"train": 8, "test": 2}


def _play(session: Session, index: int) -> bool:
    execute(session, index)
    analyze(session, index)
    improve(session, index)
    return False


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"train": 3, "gate": 24, "test": 12}, "train has 3 problems"),
        ({"train": 12, "gate": 5, "test": 12}, "gate has 5 problems"),
        ({"train": 12, "gate": 24, "test": 7}, "test has 7 problems"),
    ],
)
def test_split_smaller_than_the_plan_is_said_before_the_run(tmp_path: Path, counts: dict[str, int], said: str) -> None:
    toy = variant(tmp_path, counts)
    (line,) = [line for line in dry_run(toy, "--generations", "1").splitlines() if "problems:" in line]
    number = said.split()[2]
    assert said in line and f"plays {number}" in line
    config = build_config(str(toy), policy="scripted", sandbox="none", generations=1)
    assert [one for one in remarks(config, Task.load(toy)) if said in one]


def test_split_as_large_as_the_plan_is_not_remarked() -> None:
    assert not remarks(build_config(TOY, policy="scripted"), Task.load(TOY))


def test_gate_problems_that_come_again_are_said_before_the_run() -> None:
    config = build_config(TOY, policy="scripted", generations=3)
    (line,) = remarks(config, Task.load(TOY))
    assert "gate has 24 problems" in line and "generation 3" in line


def test_anchors_are_taken_from_the_training_problems(tmp_path: Path, tiny_model: Path) -> None:
    toy = variant(tmp_path, {"train": 5, "gate": 24, "test": 12}, "anchors = 3\n")
    config = build_config(str(toy), policy=f"local:{tiny_model}")
    (line,) = remarks(config, Task.load(toy))
    assert "plays 2" in line and "3 anchors" in line
    plan = plan_rollouts(config, Task.load(toy).config.update, sizes_of(Task.load(toy)))
    assert (plan.execute, plan.update) == (8, 4 * 8 + 2 * 3 * 4)


@pytest.mark.parametrize(
    ("counts", "toml", "what"),
    [
        ({"train": 12, "gate": 1, "test": 12}, "", "gate"),
        ({"train": 12, "gate": 24, "test": 1}, "", "test"),
        ({"train": 12, "gate": 24, "test": 12}, "anchors = 12\n", "anchors"),
    ],
)
def test_split_too_small_for_any_comparison_is_refused_before_the_run(
    tmp_path: Path, tiny_model: Path, counts: dict[str, int], toml: str, what: str
) -> None:
    toy = variant(tmp_path, counts, toml)
    config = build_config(str(toy), policy=f"local:{tiny_model}")
    with pytest.raises(TaskError, match=what) as caught:
        check_splits(config, Task.load(toy))
    assert caught.value.hint


def test_single_gate_problem_is_enough_without_levers(tmp_path: Path) -> None:
    toy = variant(tmp_path, {"train": 12, "gate": 1, "test": 12})
    check_splits(build_config(str(toy), policy="scripted", levers=""), Task.load(toy))


def test_dry_run_of_a_task_whose_data_are_missing_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    output = dry_run("denoising")
    assert "8 problems x 8" in output and "not fetched" in output
    assert not (tmp_path / "home").exists() or not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]


def test_dry_run_of_a_task_that_cannot_load_names_the_assumption(tmp_path: Path) -> None:
    toy = variant(tmp_path, {"train": 12, "gate": 24, "test": 12})
    with (toy / "task.py").open("a") as file:
        file.write("\n\ndef load(split):\n    raise OSError('no data yet')\n")
    output = dry_run(toy)
    assert "no data yet" in output and "4 problems x 4" in output


def test_dry_run_says_that_an_agent_may_ask_for_more_rounds(tiny_model: Path) -> None:
    output = dry_run(TOY, "--agent", "openai:m@http://127.0.0.1:9/v1", policy=f"local:{tiny_model}")
    (line,) = [line for line in output.splitlines() if line.startswith("  update")]
    assert "64 rollouts" in line and "4 rounds" in line and "up to 32" in line
    (line,) = [line for line in dry_run(TOY, policy=f"local:{tiny_model}").splitlines() if line.startswith("  update")]
    assert "up to" not in line


def numbers(output: str) -> dict[str, int]:
    """Promises of a dry run, by phase."""
    found = {name: int(number) for name, number in re.findall(r"^  (\w[\w ]*?)\s+(\d+) rollouts", output, re.MULTILINE)}
    return {**found, "all": int(re.search(r"at most (\d+) rollouts", output)[1])}  # type: ignore[index]


@pytest.mark.parametrize("levers", ["harness", ""])
def test_dry_run_promises_what_a_real_run_takes(
    tmp_path: Path, empty_store: Path, levers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = variant(tmp_path, {"train": 3, "gate": 5, "test": 7})
    promised = numbers(dry_run(toy, "--levers", levers, *(["--generations", "2"] if levers else [])))
    config = build_config(str(toy), policy="scripted", levers=levers)
    home = tmp_path / "home"
    home.mkdir()
    with open_session(home, empty_store, config=config) as session:
        monkeypatch.setattr(session.agents, "feedback", RulesAgent(), raising=False)
        run_generations(session, lambda index: _play(session, index))
        seal(session)
        played = Counter(unit.split for unit in session.engine.played)  # type: ignore[attr-defined]
        executed = [len(one.rollouts("train")) for one in session.run.generations()]
        gates = [node.gate for node in session.run.nodes() if node.gate]
        sealed = played["test"]
    assert executed == [promised["execute"]] * len(executed) == [3 * 4] * len(executed)
    assert sum(played.values()) <= promised["all"]
    if levers:
        assert len(gates) and promised["gate"] == 5 * 4 * 3 and sealed <= promised["sealed test"] == 2 * 7 * 6
        assert any(node.promoted for node in session.run.nodes()[1:]) and sealed == promised["sealed test"]
        assert played["gate"] <= len(executed) * promised["gate"]
    else:
        assert sum(played.values()) == promised["all"] == 12 + 42 and sealed == promised["sealed test"]


def test_budget_of_a_small_split_is_compared_with_what_is_played(tmp_path: Path) -> None:
    toy = variant(tmp_path, {"train": 3, "gate": 5, "test": 7})
    task = Task.load(toy)
    config = build_config(str(toy), policy="scripted")
    plan, assumed = (plan_rollouts(config, task.config.update, sizes) for sizes in (sizes_of(task), None))
    assert plan.generation < assumed.generation and plan.sealed < assumed.sealed


def test_unknown_lever_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="weight") as caught:
        build_config(TOY, policy="scripted", levers="weight")
    assert "did you mean 'weights'" in str(caught.value)


def test_zero_of_everything_is_refused_in_words() -> None:
    for setting in ("generations", "problems", "rollouts", "test_problems"):
        with pytest.raises(SiaError) as caught:
            build_config(TOY, policy="scripted", **{setting: 0})
        assert setting.replace("_", "-") in str(caught.value) and "Input should" not in str(caught.value)

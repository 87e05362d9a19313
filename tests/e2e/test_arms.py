"""`sia arms` compares runs through the command line, and resumes after an interruption."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from sia_core.domain.harness import Harness
from sia_core.domain.task import Task
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import open_record
from tests.agents.recordings import entry, put
from tests.e2e.conftest import TOY, Sia
from tests.e2e.test_resume import wait_until


@pytest.mark.slow
def test_interrupted_comparison_resumes_where_it_stopped(sia: Sia) -> None:
    options = ("--seeds", "1", "--arms", "harness,agent,best-of-n", "--generations", "1", "--seed", "1")
    process = sia.start("arms", str(TOY), "--policy", "scripted", *options)
    record = open_record(sia.home, None)
    wait_until(lambda: any(run.status == "FINISHED" for run in record.summaries()))
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    (found,) = record.search("tags.`sia.kind` = 'arms'")
    comparison = ArmsRecord(record, found)
    assert process.returncode == 130, output
    assert f"sia arms --resume {comparison.name}" in output
    before = {run.name for run in comparison.members().values() if run.status == "FINISHED"}

    output = sia("arms", "--resume", comparison.name, timeout=400)
    members = comparison.members()
    assert sorted(arm for _, arm in members) == ["agent", "best-of-n", "harness"]
    assert before <= {run.name for run in members.values()} and len(members) == 3
    assert all(
        run.status == "FINISHED" and run.tags["mlflow.parentRunId"] == found.info.run_id for run in members.values()
    )

    table = json.loads(comparison.get_bytes("comparison.json") or b"")
    rows = {row["arm"]: row for row in table["rows"]}
    # The toy's two levers choose the same first move, so both arms end at the same candidate with the same scores.
    assert rows["harness"]["score"] == rows["agent"]["score"]
    assert rows["seed"]["score"]["mean"] < rows["harness"]["score"]["mean"]
    # The verifier's pick of many tries reaches the best the seed can do, 0.3 a problem.
    assert rows["best-of-n"]["score"]["mean"] == pytest.approx(0.3)
    assert rows["best-of-n"]["cost"]["rollouts"] >= rows["agent"]["cost"]["rollouts"]
    for words in ("gain over seed", "agent - harness", "one seed", "best-of-n lets the verifier choose"):
        assert words in output

    refused = sia("arms", "--resume", comparison.name, "--generations", "3", code=2)
    assert "--generations does not go with --resume" in refused
    status = sia("status", comparison.name)
    assert (
        "finished, task toy" in status
        and "gain over seed" in status
        and all(run.name in status for run in members.values())
    )
    assert f"{comparison.name} " in sia("status") and "3 of 3 finished" in sia("status")
    output = sia("arms", "--resume", comparison.name, "--seeds", "2", timeout=400)
    grown = comparison.members()
    assert (
        len(grown) == 6
        and {key: run.name for key, run in members.items()}.items()
        <= {key: run.name for key, run in grown.items()}.items()
    )
    assert "2 seeds" in output and "one seed" not in output
    assert "has 2 seeds already" in sia("arms", "--resume", comparison.name, "--seeds", "1", code=2)


@pytest.mark.slow
def test_comparison_on_a_changed_task_is_refused(sia: Sia, tmp_path: Path) -> None:
    toy = tmp_path / TOY.name
    shutil.copytree(TOY, toy)
    options = ("--policy", "scripted", "--seeds", "1", "--arms", "harness,agent", "--generations", "1")
    sia("arms", str(toy), *options, timeout=400)
    record = open_record(sia.home, None)
    (found,) = record.search("tags.`sia.kind` = 'arms'")
    comparison = ArmsRecord(record, found)
    with (toy / "task.md").open("a", encoding="utf-8") as text:
        text.write("One more sentence.\n")
    refused = sia("arms", "--resume", comparison.name, "--seeds", "2", code=7)
    assert "has changed since the run began: task.md" in refused and "sia arms" in refused
    assert len(comparison.members()) == 2
    assert comparison.plan["seeds"] == 1 and ArmsRecord.open(record, comparison.name).status == "FINISHED"


@pytest.mark.slow
def test_recorded_decisions_are_compared_with_rules_on_another_seed(sia: Sia, tmp_path: Path) -> None:
    knob = entry(1, edits=[], knobs={"menu": "rich"}, reason="a wider menu holds a better colour")
    first = {"harness": Harness.load(TOY / "harness").digest}
    file = put(tmp_path / "d.json", knob, task={"name": "toy", "digest": Task.load(TOY).digest}, first=first)
    options = ("--policy", "scripted", "--seeds", "1", "--seed", "1", "--generations", "1")
    output = sia(
        "arms", str(TOY), "--agent", f"recorded:{file}", "--arms", "agent,rules,harness", *options, timeout=600
    )
    assert "agent - rules" in output and "agent - harness" in output
    record = open_record(sia.home, None)
    (found,) = record.search("tags.`sia.kind` = 'arms'")
    members = {arm: run for (_, arm), run in ArmsRecord(record, found).members().items()}
    decided = {arm: run.nodes()[1].decision for arm, run in members.items()}
    assert {arm: decision and decision.agent for arm, decision in decided.items()} == {
        "agent": "recorded:d",
        "rules": "rules",
        "harness": "rules",
    }
    assert decided["agent"] is not None and decided["agent"].knobs == {"menu": "rich"}

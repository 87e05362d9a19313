"""`sia retry` and `sia resume --generations` repeat generations, add some, and play some in a child run."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from sia_core.record.phases import SealedDone
from sia_core.record.store import open_record
from tests.e2e.conftest import TOY, Sia
from tests.e2e.test_resume import outcome, rollouts_done


@pytest.mark.slow
def test_finished_run_is_rerun_extended_and_forked(sia: Sia, tmp_path: Path) -> None:
    task = Path(shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__")))
    options = ("--generations", "1", "--levers", "harness", "--rollouts", "2", "--threads", "1", "--seed", "1")
    sia("run", str(task), "--policy", "scripted", "--no-ui", *options)
    name, before, played = sia.run().name, outcome(sia), rollouts_done(sia)

    assert "continuing from generation 1" in sia("retry", name, "--generation", "1", "--no-ui")
    assert outcome(sia) == before
    assert rollouts_done(sia) == played, "finished rollouts were run again"
    assert sia.run().tags["sia.forgotten"] == "1"

    assert "is finished" in sia("resume", name, "--generations", "1", code=7)
    sia("resume", name, "--generations", "2", "--no-ui")
    longer = outcome(sia)
    assert longer["nodes"][:2] == before["nodes"] and len(longer["nodes"]) == 3
    assert sia.run().status == "FINISHED"

    (task / "task.py").write_text((task / "task.py").read_text() + "\n# changed\n")
    assert "a run keeps its settings" in sia("retry", name, "--generation", "2", "--set", "siblings=2", code=2)
    refused = sia("retry", name, "--generation", "2", "--no-ui", code=7)
    assert "task toy has changed since the run began: task.py" in refused and "--fork" in refused
    assert outcome(sia) == longer, "a refusal changes nothing"
    assert f"forked from {name}" in sia("retry", name, "--generation", "2", "--fork", "--set", "siblings=2", "--no-ui")
    record = open_record(sia.home, None)
    child, parent = (record.open(summary.name) for summary in record.summaries())
    assert parent.name == name and child.tags["sia.forked_from"] == name
    assert child.tags["sia.changed"] == "task toy has changed since the run began: task.py; siblings = 2"
    assert child.config.siblings == 2 and parent.config.siblings == 1
    assert [asdict(node) for node in child.nodes()][:2] == [asdict(node) for node in parent.nodes()][:2]
    assert child.status == "FINISHED" and child.phase(SealedDone) is not None

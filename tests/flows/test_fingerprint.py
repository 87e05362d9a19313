"""A run goes on only with the task, code, policy and configuration that it began with."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import fingerprint, start
from flows.configure import build_config
from sia_core.errors import RecordError
from sia_core.harness import Harness
from sia_core.progress import Silent
from sia_core.record.store import RunRecord
from sia_core.task import Task
from tests.agents.recordings import entry, put
from tests.factories import TOY

SETTINGS: dict[str, Any] = {"policy": "scripted", "agent": "rules", "meta": False}


@pytest.fixture
def run(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_store, tmp_path / "home")
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    config = build_config(str(tmp_path / "toy"), {}, levers="harness", tier="none", **SETTINGS)
    return start.open_run(config, *start.prepare(config, Silent()), None)


def test_a_change_is_refused_and_named(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(run.config.task)
    fingerprint.check_unchanged(run, Task.load(path))

    source = (path / "task.py").read_text()
    (path / "task.py").write_text(source + "# changed\n")
    (path / "words.txt").write_text("new")
    (path / "README.md").write_text("for people")
    with pytest.raises(RecordError) as caught:
        fingerprint.check_unchanged(run, Task.load(path))
    assert caught.value.what == "task toy has changed since the run began: task.py, words.txt"
    assert f"sia retry {run.name} --generation N --fork" in caught.value.hint
    (path / "task.py").write_text(source)
    (path / "words.txt").unlink()

    code = fingerprint.code_digests()
    monkeypatch.setattr(fingerprint, "code_digests", lambda: {**code, "flows/gate.py": "other"})
    monkeypatch.setattr(fingerprint, "policy_digest", lambda _: "another model")
    assert fingerprint.changes(run, Task.load(path)) == [
        "SIA's code has changed since the run began: flows/gate.py",
        "policy has changed since the run began: scripted",
    ]


def test_a_configuration_that_was_edited_in_the_store_is_named(run: RunRecord) -> None:
    run.put_json("config.json", {**run.started_with.model_dump(mode="json"), "seed": 99})
    with pytest.raises(RecordError, match="configuration has changed since the run began: seed"):
        fingerprint.check_unchanged(run, Task.load(run.config.task))


def test_an_extension_is_no_change(run: RunRecord) -> None:
    run.extend(9)
    assert run.config.generations == 9
    fingerprint.check_unchanged(run, Task.load(run.config.task))


def test_longer_silence_of_the_agent_is_no_change(run: RunRecord) -> None:
    assert run.config.agent_timeout == 1200
    run.set_agent_timeout(7200)
    assert (run.config.agent_timeout, run.started_with.agent_timeout) == (7200, 1200)
    fingerprint.check_unchanged(run, Task.load(run.config.task))


def test_how_runs_are_shown_decides_nothing() -> None:
    names = fingerprint.code_digests()
    assert {"flows/gate.py", "sia_core/stats.py", "sia_core/engine/gateway.py", "sia_core/search/gate.py"} <= set(names)
    assert not [name for name in names if name.startswith(("sia_core/cli", "sia_core/report", "sia_core/record"))]


def test_an_opening_that_was_cut_is_completed(run: RunRecord) -> None:
    before = run.phase("start")
    run.record.client.delete_tag(run.run_id, "sia.phase.start")
    start.complete_opening(run, Task.load(run.config.task))
    assert run.phase("start") == before


def test_another_file_of_recorded_decisions_is_named(
    tmp_path: Path, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"harness": Harness.load(Path(TOY) / "harness").digest}
    file = put(tmp_path / "decisions.json", entry(1), first=first)
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS, "agent": "recorded:decisions.json"}
    config = build_config(run.config.task, {}, levers="harness", tier="none", **settings)
    told = Said()
    played = start.open_run(config, *start.prepare(config, told), None)
    assert played.tags["sia.recorded_by"] == "a language model"
    (line,) = told.lines
    assert line.startswith("not as in the recorded run: the files of task toy are not those")
    task = Task.load(run.config.task)
    monkeypatch.chdir("/")
    assert fingerprint.changes(played, task) == []
    put(file, entry(1), first=first, note="edited")
    assert fingerprint.changes(played, task) == [
        f"the file of recorded decisions has changed since the run began: recorded:{file}"
    ]


class Said(Silent):
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

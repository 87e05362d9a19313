"""A run is resumed only with the task, code, policy and configuration of its start."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.task import Task
from sia_core.host.progress import Silent
from sia_core.loop import create_run, fingerprint
from sia_core.loop.configure import build_config
from sia_core.record.phases import StartDone
from sia_core.record.store import RunRecord
from tests.agents.recordings import entry, put
from tests.factories import TOY

ROOT = Path(__file__).parents[2]

SETTINGS: dict[str, Any] = {"policy": "scripted", "agent": "rules", "meta": False}


@pytest.fixture
def run(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_store, tmp_path / "home")
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    config = build_config(str(tmp_path / "toy"), levers="harness", sandbox="none", **SETTINGS)
    return create_run.open_run(config, *create_run.prepare(config, Silent()), None)


def test_changed_input_is_refused_and_named(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(fingerprint, "code_digests", lambda: {**code, "sia_core/loop/gate.py": "other"})
    monkeypatch.setattr(fingerprint, "policy_digest", lambda _: "another model")
    assert fingerprint.changes(run, Task.load(path)) == [
        "SIA's code has changed since the run began: sia_core/loop/gate.py",
        "policy has changed since the run began: scripted",
    ]


def test_configuration_edited_in_the_store_is_named(run: RunRecord) -> None:
    run.put_json("config.json", {**run.started_with.model_dump(mode="json"), "seed": 99})
    with pytest.raises(RecordError, match=r"config\.json was changed"):
        fingerprint.check_unchanged(run, Task.load(run.config.task))


def test_more_generations_are_no_change(run: RunRecord) -> None:
    run.extend(9)
    assert run.config.generations == 9
    fingerprint.check_unchanged(run, Task.load(run.config.task))


def test_longer_silence_of_the_agent_is_no_change(run: RunRecord) -> None:
    assert run.config.agent_timeout == 1200
    run.change({"agent_timeout": 7200})
    assert (run.config.agent_timeout, run.started_with.agent_timeout) == (7200, 1200)
    fingerprint.check_unchanged(run, Task.load(run.config.task))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's code."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "sia_core", root / "sia_core", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def changed(tree: Path, file: str, old: str, new: str) -> set[str]:
    """Names of the digests that differ once a file has changed; the file is put back."""
    before, path = fingerprint.code_digests(tree), tree / "sia_core" / file
    text = path.read_text() if path.exists() else None
    assert text is None or text.count(old) == 1, f"{file}: {old}"
    try:
        path.write_text(new if text is None else text.replace(old, new))
        after = fingerprint.code_digests(tree)
    finally:
        path.unlink() if text is None else path.write_text(text)
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_code_of_this_tree_has_the_digests_of_its_copy(tree: Path) -> None:
    assert fingerprint.code_digests(tree) == fingerprint.code_digests()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("loop/gate.py", "from statistics import", "# A remark.\nfrom statistics import"),
        ("domain/hashing.py", "Return the sha256 of one file, read in blocks.", "Digest a file."),
        ("domain/config.py", '"""Let the agent write the first harness."""', '"""First harness by the agent."""'),
        ("cli/new_verb.py", "", "VERB = 1\n"),
        ("cli/scaffold.py", "def task_name(", "def name_of_task("),
        ("report/card.py", "", "CARD = 1\n"),
    ],
)
def test_code_change_without_effect_on_outcomes_keeps_the_fingerprint(
    tree: Path, file: str, old: str, new: str
) -> None:
    assert changed(tree, file, old, new) == set()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("loop/ladder.py", "FUTILITY = 0.95", "FUTILITY = 0.9"),
        ("search/gate.py", "MAX_UNSCORED = 0.2", "MAX_UNSCORED = 0.3"),
        ("weights/rows.py", "weight: float = 1.0", "weight: float = 2.0"),
        ("engine/sdk/sia_sdk.py", "LINE_LIMIT = 1 << 20", "LINE_LIMIT = 1 << 21"),
        ("agents/prompts/feedback.md", "Higher is better.", "Lower is better."),
        ("search/new_rule.py", "", "RULE = 1\n"),
    ],
)
def test_code_change_that_can_change_an_outcome_changes_the_fingerprint(
    tree: Path, file: str, old: str, new: str
) -> None:
    assert changed(tree, file, old, new) == {f"sia_core/{file}"}


def test_interrupted_start_of_a_run_is_completed(run: RunRecord) -> None:
    before = run.phase(StartDone)
    run.record.client.delete_tag(run.run_id, "sia.phase.start")
    create_run.complete_opening(run, Task.load(run.config.task))
    assert run.phase(StartDone) == before


def test_another_file_of_recorded_decisions_is_named(
    tmp_path: Path, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"harness": Harness.load(Path(TOY) / "harness").digest}
    file = put(tmp_path / "decisions.json", entry(1), first=first)
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS, "agent": "recorded:decisions.json"}
    config = build_config(run.config.task, levers="harness", sandbox="none", **settings)
    told = Said()
    played = create_run.open_run(config, *create_run.prepare(config, told), None)
    assert played.tags["sia.recorded_by"] == "a language model"
    (line,) = told.lines
    assert line.startswith("differs from the recorded run: the files of task toy are not those")
    task = Task.load(run.config.task)
    monkeypatch.chdir("/")
    assert fingerprint.changes(played, task) == []
    put(file, entry(1), first=first, note="edited")
    assert fingerprint.changes(played, task) == [
        f"the file of recorded decisions has changed since the run began: recorded:{file}"
    ]


class Said(Silent):
    """A reporter that keeps every message."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

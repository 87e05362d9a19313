"""Commands on a forged record, or on a task that was changed behind it, load no code and start nothing."""

import shutil
import sys
from pathlib import Path

import pytest

from sia_core.cli.main import main
from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import canonical_json, digest_bytes, digest_json
from sia_core.domain.task import Task
from sia_core.host.progress import Silent
from sia_core.loop import fingerprint
from sia_core.loop.create_run import prepare_again
from sia_core.record.store import RunRecord, open_record
from sia_core.record.tags import Tag
from tests.e2e.conftest import TOY
from tests.record.test_record import artifact
from tests.report.made import make_run

COMMANDS = {
    "resume": ("resume", "{run}", "--no-ui"),
    "more generations": ("resume", "{run}", "--no-ui", "--generations", "9"),
    "fork with another agent": ("retry", "{run}", "--generation", "1", "--fork", "--set", "agent=rules", "--no-ui"),
    "retry": ("retry", "{run}", "--generation", "1", "--no-ui"),
    "fork": ("retry", "{run}", "--generation", "1", "--fork", "--no-ui"),
    "branch": ("run", str(TOY), "--policy", "scripted", "--branch-from", "{run}", "--no-ui"),
    "report": ("report", "{run}", "--out", "{out}/report.html"),
    "compare": ("compare", "{run}", "{run}"),
    "export": ("export", "{run}", "{out}/export"),
    "status": ("status", "{run}"),
    "watch": ("watch", "{run}"),
    "approve": ("approve", "{run}"),
}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A task whose code leaves a mark when it is loaded."""
    task = Path(shutil.copytree(TOY, tmp_path / "trap"))
    mark = f"\nfrom pathlib import Path\nPath({str(tmp_path / 'loaded')!r}).touch()\n"
    (task / "task.py").write_text((task / "task.py").read_text() + mark)
    return task


@pytest.fixture
def run(store_home: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setenv("SIA_HOME", str(store_home))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return make_run(open_record(store_home, None), tags={Tag.TASK_DIGEST: Task.load(TOY).digest})


def forge(run: RunRecord, trap: Path) -> None:
    """Let the record name another task, with all digests as they would be."""
    task = Task.load(trap)
    config = run.config.model_copy(update={"task": str(trap)})
    data = canonical_json(config.model_dump(mode="json"))
    artifact(run, "config.json").write_bytes(data)
    taken = {f"{Tag.FINGERPRINT}.task": digest_json(dict(task.file_digests())), Tag.CONFIG: digest_bytes(data)}
    for name, text in {**taken, Tag.TASK_DIGEST: task.digest}.items():
        run.record.client.set_tag(run.run_id, name, text)


def call(words: tuple[str, ...], run: RunRecord, out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Call `sia` in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sia", *(word.format(run=run.name, out=out) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code))


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is started: `sia approve` needs one before it looks at the record."""
    monkeypatch.setattr("sia_core.cli.servers.use_prefect", lambda **_: None)


@pytest.mark.parametrize("name", COMMANDS)
def test_forged_record_is_refused_before_anything_is_loaded(
    name: str,
    run: RunRecord,
    trap: Path,
    tmp_path: Path,
    no_start: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forge(run, trap)
    code = call(COMMANDS[name], run, tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert code == 7 and "so nothing that it names is loaded" in said and f"sia adopt {run.name}" in said
    assert not (tmp_path / "loaded").exists() and "Traceback" not in said
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "export").exists()


def test_trap_is_sprung_by_its_code_and_by_nothing_less(trap: Path, tmp_path: Path) -> None:
    task = Task.load(trap)
    assert task.digest and task.file_digests() and task.description
    assert not (tmp_path / "loaded").exists()
    _ = task.module
    assert (tmp_path / "loaded").exists(), "the positive control"


def test_adoption_shows_what_would_be_loaded_and_asks(
    run: RunRecord, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(run, trap)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert call(("adopt", "{run}"), run, tmp_path, monkeypatch) == 2
    assert str(trap) in capsys.readouterr().out
    monkeypatch.setattr("typer.confirm", lambda _: True)
    assert call(("adopt", "{run}"), run, tmp_path, monkeypatch) == 0
    assert not (tmp_path / "loaded").exists()
    assert run.record.open(run.name).config.task == str(trap)


def test_task_that_was_changed_since_is_not_loaded(run: RunRecord, trap: Path, tmp_path: Path) -> None:
    config = run.config.model_copy(update={"task": str(trap), "policy": "scripted"})
    with pytest.raises(RecordError, match="has changed since the run began"):
        prepare_again(config, Silent(), run)
    with pytest.raises(RecordError, match="has changed since the run began"):
        fingerprint.check_same_task(run, Task.load(trap))
    assert not (tmp_path / "loaded").exists()

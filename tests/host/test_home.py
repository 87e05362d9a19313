"""Where SIA keeps its things."""

from pathlib import Path

import pytest

from sia_core.domain.errors import RecordError
from sia_core.host.home import home


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

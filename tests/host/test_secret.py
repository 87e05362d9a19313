"""Secrets are files that only their owner reads."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sia_core.domain.errors import RecordError
from sia_core.host.secret import secret


def test_secret_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "key"
    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: secret(file, "me:"), range(32)))
    (text,) = texts
    assert text.startswith("me:") and len(text) == 46
    assert file.stat().st_mode & 0o777 == 0o600 and [one.name for one in file.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_secret_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    secret(file)
    file.chmod(mode)
    with pytest.raises(RecordError, match="others can read or replace") as caught:
        secret(file)
    assert caught.value.hint.endswith(f"rm {file}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_secret_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    secret(file)
    os.chown(file, 65534, 65534)
    with pytest.raises(RecordError, match="others can read or replace"):
        secret(file)


def test_empty_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(mode=0o600)
    with pytest.raises(RecordError, match="is empty"):
        secret(file)

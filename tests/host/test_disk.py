"""A full disk: whatever was being written, the error says so, and nothing half-written is left."""

import errno
import json
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import RecordError
from sia_core.host.disk import cannot_write, is_full
from sia_core.policy.log import LoggedPolicy, read_log
from sia_core.policy.protocol import Completion, Request
from sia_core.record.journal import Journal
from tests.factories import ask, make_rollout


class Counted:
    """A policy that costs."""

    spec, digest, trainable, concurrency = "counted", "d", False, 4
    calls = 0

    def sample(self, request: Request) -> Completion:
        self.calls += 1
        return Completion("reply " * 40, str(request.messages))

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        return ()


@contextmanager
def room_for(path: Path, more: int) -> Iterator[None]:
    """No file may become larger than this one and so many bytes: a write is cut short, then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_reply_that_cannot_be_kept_ends_the_run_before_another_is_paid_for(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    policy = Counted()
    logged = LoggedPolicy(policy, path)
    for seed in range(2000):
        logged.sample(ask("?", seed=seed))
    before = path.read_bytes()
    with room_for(path, 100):
        for seed in (2000, 2001):
            with pytest.raises(RecordError, match="the disk is full") as full:
                logged.sample(ask("?", seed=seed))
        assert full.value.where == str(path) and str(tmp_path) in full.value.hint
    assert policy.calls == 2001, "a reply was paid for that could not be kept"
    assert path.read_bytes() == before
    again = LoggedPolicy(policy, path)
    assert again.sample(ask("?", seed=7)) == logged.sample(ask("?", seed=7))
    again.sample(ask("?", seed=2000))
    assert policy.calls == 2002
    assert len(read_log(path)[1]) == 2001


def test_record_that_cannot_be_kept_ends_the_run_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        kept = [make_rollout(seed=seed) for seed in range(50)]
        for rollout in kept:
            journal.put(rollout)
        (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
        journal._database.execute(f"PRAGMA max_page_count = {pages}")

        def fill() -> None:
            for seed in range(50, 500):
                journal.put(make_rollout(seed=seed))
                kept.append(make_rollout(seed=seed))

        with pytest.raises(RecordError, match="the disk is full") as full:
            fill()
        assert full.value.where == str(path)
    with Journal(path) as journal:
        assert journal.get(rollout.unit.key for rollout in kept) == {rollout.unit.key: rollout for rollout in kept}
        assert len(journal) == len(kept)
        journal.put(make_rollout(seed=999))


def test_full_disk_is_found_however_deep_it_lies() -> None:
    def wrapped(error: Exception) -> Exception:
        try:
            try:
                raise error
            except type(error) as inner:
                raise ValueError("the store failed") from inner
        except ValueError as outer:
            return outer

    assert is_full(wrapped(OSError(errno.ENOSPC, "x")))
    assert is_full(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    for other in (
        OSError(errno.EACCES, "x"),
        sqlite3.OperationalError("locked"),
        wrapped(json.JSONDecodeError("", "", 0)),
    ):
        assert not is_full(other)
    assert "full" not in str(cannot_write(OSError(errno.EIO, "broken"), Path("/x/y")))

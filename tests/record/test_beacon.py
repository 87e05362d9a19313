"""The word that a run leaves of itself."""

import time

import pytest

from sia_core.host.progress import Silent, Wait
from sia_core.record.beacon import Beacon, read_progress
from sia_core.record.store import Record, RunRecord, open_record
from sia_core.record.tags import Tag
from tests.record.test_record import CONFIG


class Listener(Silent):
    """Remembers."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def progress(self, label: str, done: int, total: int) -> None:
        self.heard.append((label, done, total))

    def say(self, text: str) -> None:
        self.heard.append(text)

    def waiting(self, wait: Wait | None) -> None:
        self.heard.append(wait)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return open_record(tmp_path_factory.mktemp("home"), None)


def wait_for(run: RunRecord, label: str, wait: Wait | None = None) -> None:
    for _ in range(200):
        found = read_progress(run.tags)
        if found is not None and (found.label, found.wait) == (label, wait):
            return
        time.sleep(0.05)
    pytest.fail(f"{label} was never written")


def test_the_latest_step_is_in_the_record_and_is_handed_on(store: Record) -> None:
    run, listener = store.create(CONFIG, {"sia.task": "toy"}), Listener()
    assert read_progress(run.tags) is None
    with Beacon(run, listener, period=0.05) as beacon:
        beacon.progress("first", 0, 3)
        beacon.say("words")
        beacon.progress("second", 1, 3)
        wait_for(run, "second")
    found = read_progress(run.tags)
    assert found is not None and (found.done, found.total) == (1, 3) and time.time() - found.at < 60
    assert listener.heard == [("first", 0, 3), "words", ("second", 1, 3)]
    time.sleep(0.2)
    assert read_progress(run.tags) == found  # It goes out with the work.


def test_wait_for_a_reply_is_in_the_record_while_it_lasts(store: Record) -> None:
    run, listener = store.create(CONFIG, {"sia.task": "toy"}), Listener()
    wait = Wait("asking the agent", 3, 12_300, began=1000.0)
    with Beacon(run, listener, period=0.05) as beacon:
        beacon.progress("execute", 16, 16)
        beacon.waiting(wait)
        wait_for(run, "execute", wait)
        beacon.waiting(None)
        wait_for(run, "execute")
    assert listener.heard == [("execute", 16, 16), wait, None]


def test_a_store_that_is_down_stops_nothing(store: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tries = store.create(CONFIG, {"sia.task": "toy"}), []

    def refuse(tags: dict[str, str]) -> None:
        tries.append(tags[Tag.PROGRESS])
        raise OSError("the disk is full")

    monkeypatch.setattr(run, "set_tags", refuse)
    with Beacon(run, Silent(), period=0.01) as beacon:
        for _ in range(500):
            if len(tries) > 2:
                break
            time.sleep(0.01)
        beacon.progress("goes on", 1, 1)
    assert len(tries) > 2

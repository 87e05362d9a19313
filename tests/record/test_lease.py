"""A run has a single holder: claims, takeovers and fencing on a real MLflow store."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from sia_core.domain.errors import HeldError
from sia_core.host.processes import Process
from sia_core.record import lease
from sia_core.record.lease import Claim, Holdable, Lease, hold, refuse_held
from sia_core.record.phases import StopDone
from sia_core.record.store import Record, RunRecord, open_record
from tests.record.test_record import CONFIG

ELSEWHERE = replace(Process.this(), host="far", machine="elsewhere")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return open_record(tmp_path_factory.mktemp("home"), None)


@pytest.fixture
def run(store: Record) -> RunRecord:
    return store.create(CONFIG, {"sia.task": "toy", "sia.task_digest": "d"})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BEAT_S": 0.05, "LOOK_S": 0.5, "TTL_S": 1.0}.items():
        monkeypatch.setattr(lease, name, value)


def claim(run: Holdable, token: int, process: Process, since: float | None = None) -> None:
    """Claim the run's lease as another process does."""
    made = Claim(token, process, time.time() if since is None else since, f"nonce {token}")
    run.record.client.log_param(run.lease_id, f"holder.{token}", made.text)


def holding(run: RunRecord, said: list[str] | None = None) -> AbstractContextManager[Lease]:
    heard: list[str] = [] if said is None else said
    return hold(run, heard.append)


def take(run: RunRecord, said: list[str] | None = None) -> int:
    """Hold the lease for a moment and return its token."""
    with holding(run, said) as taken:
        return taken.claim.token


def check_until_lost(held: Lease) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        held.check()
        time.sleep(0.02)


def test_second_process_receives_the_holder_and_a_hint(run: RunRecord) -> None:
    with holding(run) as held, pytest.raises(HeldError) as caught:
        take(run)
    assert f"is being run by {held.claim.process} since 20" in str(caught.value)
    assert f"kill {held.claim.process.pid}" in caught.value.hint
    refuse_held(run)  # It was given back.
    with holding(run) as again:
        assert again.claim.token == held.claim.token + 1
        with pytest.raises(HeldError):
            refuse_held(run)


def test_lease_goes_to_a_single_process_of_many(run: RunRecord) -> None:
    start, end = threading.Barrier(6), threading.Event()

    def attempt(_: int) -> bool:
        start.wait()
        try:
            with holding(run):
                return end.wait(20)
        except HeldError:
            return False

    with ThreadPoolExecutor(6) as pool:
        tries = [pool.submit(attempt, number) for number in range(6)]
        while sum(one.done() for one in tries) < 5:
            time.sleep(0.02)
        end.set()
        assert sorted(one.result() for one in tries) == [False] * 5 + [True]


def test_dead_process_holds_no_lease(run: RunRecord) -> None:
    claim(run, 3, replace(Process.this(), began=1))
    assert take(run) == 4


@pytest.mark.parametrize("since", [time.time(), 0.0, time.time() + 7200], ids=["now", "long ago", "clock ahead"])
def test_another_machine_is_replaced_once_it_is_silent(run: RunRecord, impatient: None, since: float) -> None:
    claim(run, 1, ELSEWHERE, since)
    said: list[str] = []
    began = time.monotonic()
    assert take(run, said) == 2
    assert time.monotonic() - began >= 0.5
    assert "was last held by process" in said[0] and "on far" in said[0]


@pytest.mark.parametrize("behind", [0.0, 7200.0], ids=["same clock", "clock behind"])
def test_working_machine_keeps_the_run_with_any_clock(run: RunRecord, impatient: None, behind: float) -> None:
    claim(run, 1, ELSEWHERE, time.time() - behind)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.01):
            run.record.client.set_tag(run.lease_id, "sia.holder.1", str(time.time() - behind))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(HeldError, match=r"on far.*it is at work") as caught:
            take(run)
    finally:
        ended.set()
        beating.join()
    assert "on far: kill" in caught.value.hint


def test_run_given_back_by_another_machine_is_free_at_once(run: RunRecord) -> None:
    claim(run, 1, ELSEWHERE)
    run.record.client.set_tag(run.lease_id, "sia.holder.1", "given back")
    assert take(run) == 2


def test_process_that_lost_the_lease_writes_nothing_more(store: Record, run: RunRecord) -> None:
    ours = RunRecord(Record(store.tracking_uri, None, store.cache), store.client.get_run(run.run_id))
    with hold(ours) as held:
        ours.put_json("before.json", 1)
        claim(run, held.claim.token + 1, ELSEWHERE)  # This process was asleep, and far away it was taken for dead.
        with pytest.raises(HeldError, match=r"was taken over by process .* on far"):
            ours.complete(StopDone(rule="plateau", reason="", plateau={}))
        for write in (
            lambda: ours.put_json("after.json", 1),
            lambda: ours.set_tags({"a": "b"}),
            lambda: ours.log_metrics({"a": 1.0}),
            lambda: ours.end("FINISHED"),
        ):
            with pytest.raises(HeldError):
                write()
    assert run.get_json("before.json") == 1 and run.get_json("after.json") is None and run.phase(StopDone) is None
    assert run.status == "RUNNING"
    tags = store.client.get_run(run.lease_id).data.tags
    assert tags.get(f"sia.holder.{held.claim.token}") != "given back", "it was not the loser's to give"


def test_lost_lease_is_noticed_while_nothing_is_written(run: RunRecord, impatient: None) -> None:
    with holding(run) as held:
        claim(run, held.claim.token + 1, ELSEWHERE)
        with pytest.raises(HeldError):
            check_until_lost(held)

"""MLflow that is refused, fails, hangs, or fails after the commit: the record waits, and nothing is there twice."""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import botocore.exceptions
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.errors import HeldError, RecordError, ServiceError, UsageError
from sia_core.domain.hashing import digest_files
from sia_core.host.processes import Process
from sia_core.host.progress import Silent
from sia_core.host.retrying import Schedule
from sia_core.record import lease
from sia_core.record.beacon import Beacon
from sia_core.record.fault import fault
from sia_core.record.lease import hold
from sia_core.record.patience import SCHEDULE, Waiting, in_haste, schedule_of_environment
from sia_core.record.phases import ExecuteDone, StopDone
from sia_core.record.store import Record, RunRecord, open_record
from tests.clock import Clock
from tests.record.faulty import Faulty, faulty
from tests.record.test_record import CONFIG, EXECUTED, HARNESS
from tests.services.daemon import free_port

TAGS = {"sia.task": "toy", "sia.task_digest": "d"}


class Flaky:
    """A call that is refused so many times, of which each takes `seconds`."""

    def __init__(self, clock: Clock, times: int, seconds: float = 0.0) -> None:
        self.clock, self.left, self.seconds = clock, times, seconds

    def __call__(self) -> str:
        self.clock.now += self.seconds
        if self.left:
            self.left -= 1
            raise requests.ConnectionError("Connection refused")
        return "done"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard() -> list[str]:
    return []


def waiting(clock: Clock, heard: list[str], uri: str = "http://u:p@mlflow:5000", total_s: float = 900.0) -> Waiting:
    return Waiting(uri, clock.drive(SCHEDULE, total_s=total_s), heard.append)


def test_pauses_grow_to_a_bound_and_the_user_hears_of_beginning_and_end(clock: Clock, heard: list[str]) -> None:
    assert waiting(clock, heard)(Flaky(clock, 9)) == "done"
    assert clock.slept == [0.5, 1, 2, 4, 8, 15, 15, 15, 15]
    assert heard == [
        "MLflow at http://mlflow:5000 does not answer (Connection refused); waiting, up to 15 min",
        "MLflow answers again, after 76 s; continuing",
    ]


def test_short_failure_is_not_announced_and_a_hang_is(clock: Clock, heard: list[str]) -> None:
    waiting(clock, heard)(Flaky(clock, 1))
    assert heard == []
    waiting(clock, heard)(Flaky(clock, 1, seconds=60))
    assert len(heard) == 2


def test_exhausted_wait_says_what_to_do(clock: Clock, heard: list[str]) -> None:
    with pytest.raises(ServiceError, match=r"MLflow did not answer for 90 s \(Connection refused\)") as caught:
        waiting(clock, heard, total_s=100)(Flaky(clock, 1000))
    assert 85 < clock.now <= 100
    assert "SIA_MLFLOW_PATIENCE_S" in caught.value.hint
    with pytest.raises(RecordError):
        waiting(clock, heard, "sqlite:///x.db", total_s=0)(Flaky(clock, 1))


def test_calls_in_haste_do_not_wait(clock: Clock, heard: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with in_haste(3), pytest.raises(requests.ConnectionError):
        waiting(clock, heard)(Flaky(clock, 1))
    assert (clock.slept, heard) == ([], [])
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    assert waiting(clock, heard)(Flaky(clock, 1)) == "done"


def test_signal_ends_a_wait(clock: Clock, heard: list[str]) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    call = Flaky(clock, 2)
    with pytest.raises(KeyboardInterrupt):
        Waiting("http://x", replace(SCHEDULE, sleep=interrupted), heard.append)(call)
    assert call.left == 1


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_wait_limit_must_be_a_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SIA_MLFLOW_PATIENCE_S", text)
    with pytest.raises(UsageError, match="no number of seconds"):
        schedule_of_environment()


def test_error_of_the_client_is_raised_immediately(clock: Clock, heard: list[str]) -> None:
    errors = (KeyError("x"), MlflowException("internal to the client"), OSError(28, "No space left on device"))
    for error in errors:

        def call(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            waiting(clock, heard)(call)
    assert clock.slept == []


def test_object_store_that_is_down_is_waited_for() -> None:
    assert fault(botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"))
    assert fault(botocore.exceptions.NoCredentialsError()) is None


# With a server.


@pytest.fixture(scope="module")
def module_server(empty_store: Path) -> Iterator[Faulty]:
    with faulty(empty_store) as server:
        yield server


@pytest.fixture
def server(module_server: Faulty) -> Iterator[Faulty]:
    """Answers, once the test is over, whatever it did to it."""
    yield module_server
    module_server.heal()


@pytest.fixture
def record(server: Faulty, tmp_path: Path, heard: list[str]) -> Record:
    made = open_record(tmp_path, server.url, heard.append)
    made.waiting.schedule = Schedule(total_s=120, first_s=0.01, longest_s=0.05)
    return made


@pytest.fixture
def short(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a server that says nothing for a second to hang."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["before", "after", "429", "503", "hang"])
def test_failed_creation_is_retried_without_duplicates(server: Faulty, record: Record, short: None, fault: str) -> None:
    before = len(record.search(""))
    server.on, server.faults = "runs/create", deque([fault] * 2)
    run = record.create(CONFIG, TAGS)
    assert not server.faults
    assert len(record.search("")) == before + 2  # The run and its lease.
    assert record.open(run.name).config == CONFIG


@pytest.mark.parametrize("fault", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_every_write_is_done_once_whichever_request_fails(
    server: Faulty, record: Record, tmp_path: Path, fault: str
) -> None:
    """POST, PUT, PATCH and DELETE."""
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    adapter = Adapter(digest_files(files), folder)
    server.each_write = fault
    run = record.create(CONFIG, TAGS | {"sia.task": f"task-{fault}"})
    run.put_harness(HARNESS)
    with hold(run):
        generation = run.generation(1)
        generation.log_metrics({"score": 0.5}, 3)
        generation.complete(EXECUTED, {"a": "b"})
        run.put_adapter(adapter, {"rank": 2}, generation)
        run.promote(Candidate(HARNESS.digest, adapter.digest), 1)
        run.demote()
        record.client.delete_tag(run.run_id, "sia.task_digest")
        run.end("FINISHED")
    assert len(server.failed) > 20
    assert run.harness(HARNESS.digest) == HARNESS
    (only,) = run.generations()
    assert only.phase(ExecuteDone) == EXECUTED
    history = record.client.get_metric_history(only.run_id, "score")
    assert [(point.value, point.step) for point in history] == [(0.5, 3)]
    assert len(record.client.search_logged_models([run.experiment_id])) == 1
    for kind in ("adapter", "harness"):
        assert len(record.client.search_model_versions(f"name = 'task-{fault}-{kind}'")) == 1
    assert run.status == "FINISHED" and "sia.task_digest" not in run.tags


def test_refused_connection_is_waited_for(server: Faulty, record: Record, heard: list[str]) -> None:
    run = record.create(CONFIG, TAGS)
    server.down()
    back = threading.Timer(1.0, server.up)
    back.start()
    assert run.status == "RUNNING"
    back.join()
    assert "does not answer (Connection refused)" in heard[0] and "answers again" in heard[1]
    assert len(heard) == 2


@pytest.mark.parametrize("fault", ["before", pytest.param("hang", marks=pytest.mark.slow)])
def test_downloads_are_waited_for(server: Faulty, record: Record, short: None, fault: str) -> None:
    run = record.create(CONFIG, TAGS)
    run.put_harness(HARNESS)
    server.on, server.faults = "mlflow-artifacts/artifacts", deque([fault])
    assert run.harness(HARNESS.digest) == HARNESS
    assert not server.faults


def test_late_creation_of_a_hanging_server_is_ignored(server: Faulty, record: Record, short: None) -> None:
    run = record.create(CONFIG, TAGS)
    server.on, server.faults = "runs/create", deque(["late"])
    generation = run.generation(1)
    generation.complete(EXECUTED)
    server.let_go.set()
    deadline = time.monotonic() + 20
    while len(_generations(run)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [found.run_id for found in run.generations()] == [generation.run_id]
    assert run.generation(1).phase(ExecuteDone) == EXECUTED


def test_server_that_never_answered_is_refused_at_once(tmp_path: Path, heard: list[str]) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        open_record(tmp_path, f"http://127.0.0.1:{free_port()}", heard.append)
    assert heard == []


def test_opening_again_waits(server: Faulty, record: Record, tmp_path: Path, heard: list[str]) -> None:
    """Open the record as each session of a run does, in the process that has reached the server before."""
    run = record.create(CONFIG, TAGS)
    server.down()
    back = threading.Timer(0.5, server.up)
    back.start()
    assert open_record(tmp_path, server.url, heard.append).open(run.name).run_id == run.run_id
    back.join()


def test_holder_goes_on_after_an_outage_unless_it_was_taken_over(
    server: Faulty, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BEAT_S": 0.05, "TTL_S": 0.3}.items():
        monkeypatch.setattr(lease, name, value)
    run = record.create(CONFIG, TAGS)
    with hold(run), Beacon(run, Silent(), period=0.05):
        server.down()
        time.sleep(0.6)  # Longer than a lease lasts.
        back = threading.Timer(0.3, server.up)
        back.start()
        run.put_json("after.json", 1)
        back.join()
        other = lease.Claim(2, Process(pid=1, began=1, host="far", machine="elsewhere"), time.time(), "nonce")
        record.client.log_param(run.lease_id, "holder.2", other.text)
        with pytest.raises(HeldError, match="taken over"):
            run.complete(StopDone(rule="plateau", reason="", plateau={}))
    assert run.get_json("after.json") == 1


def test_exit_during_an_outage_does_not_wait(server: Faulty, record: Record, heard: list[str]) -> None:
    run = record.create(CONFIG, TAGS)

    def leave() -> None:
        with hold(run):
            server.down()
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert time.monotonic() - began < 10 and heard == []


# With SQLite.


def test_locked_file_is_waited_for_and_a_traceback_is_not_printed(
    store_home: Path, heard: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    record = open_record(store_home, None, heard.append)
    record.waiting.schedule = Schedule(total_s=60, first_s=0.01, longest_s=0.05)
    run = record.create(CONFIG, TAGS)
    locking = sqlite3.connect(store_home / "mlflow.db", isolation_level=None, check_same_thread=False)
    locking.execute("BEGIN EXCLUSIVE")
    store = record.client._tracking_client.store
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 100")
    unlocking = threading.Timer(1.0, lambda: locking.execute("COMMIT"))
    unlocking.start()
    run.set_tags({"a": "b"})
    unlocking.join()
    locking.close()
    assert run.tags["a"] == "b"
    assert not caplog.records


def _generations(run: RunRecord) -> list[str]:
    query = f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    client: MlflowClient = run.record.client
    return [found.info.run_id for found in client.search_runs([run.experiment_id], query)]

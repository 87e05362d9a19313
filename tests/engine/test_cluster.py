"""Ray's workers import the installed packages, and nothing from the directory of the command."""

import signal
import sys
from threading import Event, current_thread
from typing import Any

import pytest
import ray
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.job_config import JobConfig

from sia_core.domain.errors import ServiceError
from sia_core.engine import cluster
from sia_core.host.signals import interrupt


def test_directories_of_the_driver_are_not_sent_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "_py_driver_sys_path" in vars(JobConfig()), "Ray has renamed it: see cluster.connect"
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.connect()
    assert all(hasattr(Config, name) for name in asked["_system_config"]), "Ray ignores a setting that it does not know"
    job = asked["job_config"]
    job._py_driver_sys_path.extend(["/where/the/command/was/called"])  # What ray.init does with it.
    assert list(job._get_proto_job_config().py_driver_sys_path) == []


@pytest.mark.usefixtures("comes_up")
def test_sigterm_handler_is_kept_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_ray_does(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

    monkeypatch.setattr(ray, "init", as_ray_does)
    before = signal.getsignal(signal.SIGTERM)
    assert cluster.connect()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def comes_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Threads in which Ray was started."""
    threads: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: threads.append(current_thread().name))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return threads


@pytest.fixture
def may_come(comes_up: list[str], monkeypatch: pytest.MonkeyPatch) -> Event:
    """Ray does not come up before this is set."""
    may_come, started = Event(), ray.init

    def slow(**options: Any) -> None:
        may_come.wait()
        started(**options)

    monkeypatch.setattr(ray, "init", slow)
    return may_come


def test_cluster_begun_early_is_taken_over_once(comes_up: list[str]) -> None:
    cluster.begin()
    cluster.begin()
    assert cluster.connect()
    assert comes_up == ["ray"]
    assert cluster.connect()
    assert comes_up == ["ray", "MainThread"]


def test_remote_cluster_is_not_begun_early(comes_up: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    cluster.begin()
    assert comes_up == []


@pytest.mark.parametrize("begun", [False, True])
def test_cluster_that_does_not_start_is_an_error_where_it_is_needed(
    begun: bool, comes_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        comes_up.append(current_thread().name)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", fail)
    if begun:
        cluster.begin()
    with pytest.raises(ServiceError, match="timed out during startup") as caught:
        cluster.connect()
    assert "less busy" in caught.value.hint
    assert comes_up == ["ray" if begun else "MainThread"] * cluster.STARTS


def test_interrupted_wait_takes_no_cluster_over(comes_up: list[str], may_come: Event) -> None:
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        cluster.begin()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            cluster.connect()
        assert cluster.coming_up()
    finally:
        signal.signal(signal.SIGALRM, before)
        may_come.set()
    assert cluster.connect() and not cluster.coming_up()
    assert comes_up == ["ray"]

"""Ray's workers import our packages, whatever lies where the command was called from."""

from typing import Any

import pytest
import ray
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.job_config import JobConfig

from sia_core.engine import cluster
from sia_core.errors import ServiceError


def test_no_directory_of_the_driver_goes_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_cluster_that_does_not_come_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ServiceError, match="timed out during startup") as caught:
        cluster.connect()
    assert "less busy" in caught.value.hint

"""Test the requirements on a node of another user's cluster, and the message about a missing requirement."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray

from sia_core.domain.errors import ServiceError
from sia_core.domain.task import Task
from sia_core.engine.cluster import connect
from sia_core.engine.nodes import Expected, check_nodes, find_lack

TOY = Path(__file__).parents[1] / "toy"


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    task = Task.load(TOY)
    token = tmp_path / "token"
    token.write_text("content")
    return Expected(token, "content", task.where, task.digest, version("sia"))


def test_node_like_the_driver_lacks_nothing(expected: Expected) -> None:
    assert find_lack(expected) is None


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        ({"token": Path("/nowhere/run/token")}, "does not see /nowhere/run", "SIA_HOME"),
        ({"content": "of another disk"}, "does not see", "SIA_HOME"),
        ({"version": "9.9"}, "the driver has 9.9", "same image"),
        ({"task": "/nowhere/task"}, "has no task /nowhere/task", "same path"),
        ({"digest": "f" * 64}, "another version of task", "same files"),
    ],
)
def test_node_that_lacks_something_is_described(
    expected: Expected, change: dict[str, Any], what: str, hint: str
) -> None:
    lack = find_lack(replace(expected, **change))
    assert lack is not None and what in lack[0] and hint in lack[1]


@pytest.fixture
def cluster() -> Iterator[None]:
    """Two nodes on this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    ray.init(made.address, log_to_driver=False)
    yield
    ray.shutdown()
    made.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_every_node_is_checked(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task.load(TOY)
    assert check_nodes(tmp_path / "run", task) == 2
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.setattr("sia_core.engine.nodes.version", lambda _: "9.9")
    with pytest.raises(ServiceError, match=r"has sia .*, the driver has 9\.9") as caught:
        check_nodes(tmp_path / "run", task)
    assert caught.value.where.startswith("Ray node ")


def test_late_node_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[dict[str, Any]] = []

    def init(**how: Any) -> None:
        tries.append(how)
        if len(tries) == 1:
            raise Exception("The current node timed out during startup.")  # As Ray does it.

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    assert connect()
    assert [how["address"] for how in tries] == ["local", "local"]


def test_ray_that_never_starts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**how: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ServiceError, match="Ray does not start: no room"):
        connect()

"""Test the description of the machine that is recorded."""

import json
import platform
import socket

from sia_core.host.environment import describe


def test_environment_names_versions_and_no_place() -> None:
    found = describe()
    assert found["python"] == platform.python_version()
    assert {"sia", "mlflow", "ray", "prefect"} <= set(found["packages"])
    assert found["cpus"] >= 1
    assert socket.gethostname() not in json.dumps(found)

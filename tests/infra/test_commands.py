"""Commands of docker-compose.yml, read by the programs that they start; these are slow to import."""

import pytest

from tests.infra.test_compose import SERVICES


@pytest.mark.slow
def test_ray_commands_have_valid_options() -> None:
    from ray.scripts.scripts import start

    for name in ("ray-head", "ray-worker", "ray-gpu-worker"):
        words = SERVICES[name]["command"].split()
        assert words[:2] == ["ray", "start"]
        assert start.make_context("start", words[2:]).params["block"]


@pytest.mark.slow
def test_mlflow_command_has_valid_options() -> None:
    from mlflow.cli import server

    program, verb, *words = SERVICES["mlflow"]["command"]
    assert (program, verb) == ("mlflow", "server")
    given = server.make_context("server", words).params
    assert given["app_name"] == "basic-auth" and given["allowed_hosts"]
    assert given["serve_artifacts"], "clients reach artifacts through the server only"

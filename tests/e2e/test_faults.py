"""A run that is killed at its writes, or loses MLflow, ends as an undisturbed run. More: bench/chaos.py."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.e2e.conftest import Sia, make_sia
from tests.e2e.faults import Expected, count_writes, die_at, served, strike_once
from tests.services.daemon import free_port, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SAMPLE = 3
"""Number of writes that a test has time for; `python -m bench.chaos --sweep` takes all of them."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, prefect_api: str, empty_store: Path) -> Expected:
    return count_writes(make_sia(tmp_path_factory.mktemp("undisturbed"), prefect_api, empty_store))


@pytest.mark.parametrize("number", range(SAMPLE))
def test_run_killed_after_a_write_resumes_to_the_same_outcome(sia: Sia, expected: Expected, number: int) -> None:
    assert expected.writes > 30
    write = sorted(Random(1).sample(range(1, expected.writes), SAMPLE))[number]
    told = die_at(sia, expected, write)
    assert told.wrong == [], told


@pytest.mark.parametrize("fault", ["MLflow restarted", "MLflow SIGSTOP"])
def test_outage_of_mlflow_costs_time_only(sia: Sia, expected: Expected, tmp_path: Path, fault: str) -> None:
    start = partial(mlflow_server, tmp_path / "server", free_port())
    server, url = start()
    over_http = replace(sia, environment={**sia.environment, **served(url)})
    told = strike_once(over_http, expected, fault, Random(7), mlflow=lambda: start()[0], server=server.wait())
    assert told.struck and told.codes == [0] and told.wrong == [], told

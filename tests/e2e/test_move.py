"""A run is resumed on another machine with the address of the MLflow server alone."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sia_core.record.journal import Journal
from tests.e2e.conftest import Finished, Sia
from tests.e2e.test_resume import outcome, rollouts_done, wait_until
from tests.services.daemon import mlflow_server

SEALED = 2 * 12 * 6
"""Rollouts of the sealed test, which come last."""


@pytest.fixture
def tracking_uri(tmp_path: Path) -> Iterator[str]:
    """A server that looks to a run like one on another machine: an address and a proxy for artifacts."""
    server, url = mlflow_server(tmp_path / "server")
    with server:
        server.wait()
        yield url


@pytest.mark.slow
def test_run_resumes_from_an_empty_home(sia: Sia, finished: Finished, tracking_uri: str, tmp_path: Path) -> None:
    here = _at(sia, tmp_path / "here", tracking_uri)
    there = _at(sia, tmp_path / "there", tracking_uri)
    moment = rollouts_done(finished.sia) - SEALED - 4  # In the last generation's gate.
    process = here.start(*finished.words)
    wait_until(lambda: rollouts_done(here) >= moment or process.poll() is not None, seconds=600)
    assert process.poll() is None, process.communicate()[0]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = here.run()
    recorded = sum(
        len(generation.own_rollouts(name)) for generation in run.generations() for name in generation.rollout_sets()
    )
    shutil.rmtree(here.home)
    assert list(there.home.iterdir()) == []

    refused = there("resume", run.name, "--no-ui", code=7)
    assert f"sia adopt {run.name}" in refused
    assert finished.words[1] in there("adopt", run.name, "--yes")
    output = there("resume", run.name, "--no-ui", timeout=600)
    assert f"MLflow {tracking_uri}" in output
    assert outcome(there) == outcome(finished.sia)
    with Journal(there.home / "runs" / run.name / "journal.db") as journal:
        played = len(journal) - recorded  # What MLflow has is put back first.
    assert recorded > 0, "the kill came at a moment that shows nothing"
    assert played + recorded <= rollouts_done(finished.sia), "what MLflow had was played again"


def _at(sia: Sia, home: Path, tracking_uri: str) -> Sia:
    """The command line with another, empty home and an MLflow elsewhere."""
    home.mkdir()
    environment = {**sia.environment, "SIA_HOME": str(home), "MLFLOW_TRACKING_URI": tracking_uri}
    return replace(sia, home=home, environment=environment)

"""Dead flow runs are found on a real Prefect server."""

import os
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Paused, Running, Suspended

from flows.crashed_runs import reap
from sia_core.host.processes import Process
from tests.e2e.conftest import AUTH

DEAD = replace(Process.this(), began=1)
LIVE = Process.this()


@flow(name="evolve")
def played() -> None:
    """Stands for a run."""


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    settings = {PREFECT_API_URL: prefect_api, PREFECT_API_AUTH_STRING: os.environ[AUTH]}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def begin(client: SyncPrefectClient, process: Process | None, state: State[None], offset: int = 0) -> UUID:
    """A flow run in a state, with the labels of `mark`; `offset` is the number of attempts since these labels."""
    made = client.create_flow_run(played)
    client.set_flow_run_state(made.id, Running(), force=True)
    if state.name != "Running":
        client.set_flow_run_state(made.id, state, force=True)
    if process is not None:
        labels = {f"sia.process.{name}": value for name, value in vars(process).items()}
        client.update_flow_run_labels(made.id, {**labels, "sia.try": client.read_flow_run(made.id).run_count - offset})
    return made.id


def test_reaper_ends_only_runs_known_to_be_dead(client: SyncPrefectClient) -> None:
    left = {
        "dead": begin(client, DEAD, Running()),
        "dead while it waited for a person": begin(client, DEAD, Paused()),
        "alive": begin(client, LIVE, Running()),
        "of another machine": begin(client, replace(DEAD, machine="elsewhere"), Running()),
        "retried, and not labelled yet": begin(client, DEAD, Running(), offset=1),
        "suspended": begin(client, DEAD, Suspended()),
        "not ours": begin(client, None, Running()),
    }
    reaped = set(reap())
    states = {name: client.read_flow_run(id_).state for name, id_ in left.items()}
    crashed = {name for name, state in states.items() if state is not None and state.is_crashed()}
    assert crashed == {"dead", "dead while it waited for a person"}
    assert {client.read_flow_run(left[name]).name for name in crashed} <= reaped
    for id_ in left.values():  # The server is shared.
        client.delete_flow_run(id_)

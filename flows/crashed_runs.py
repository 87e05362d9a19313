"""Find flow runs whose process crashed without an error message, which Prefect still shows as running.

`mark` labels each flow run with its process and the number of its try. The next process on the same machine marks flow
runs of dead processes as crashed (`reap`), so that they can be retried and hold no place in a queue. A retry that has
begun but has no label yet is recognised by its number. Runs of other machines are left to the automation of `deploy`,
which waits for three missed heartbeats and one more minute.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed

from flows.progress import show_if_reachable
from sia_core.host.processes import Process
from sia_core.record.tags import Tag

_LABEL = f"{Tag.PROCESS}."
_UNDER_WAY = [StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
_UNFINISHED = [StateType.PENDING, *_UNDER_WAY]


def mark() -> None:
    """Label the flow run at work with this process."""
    labels = {f"{_LABEL}{name}": value for name, value in asdict(Process.this()).items()}

    def label() -> None:
        with get_client(sync_client=True) as client:
            labels[Tag.TRY] = client.read_flow_run(runtime.flow_run.id).run_count
            client.update_flow_run_labels(runtime.flow_run.id, labels)

    show_if_reachable(label)


def reap() -> list[str]:
    """Mark flow runs of this machine's dead processes, and their tasks, as crashed; return their names."""
    with get_client(sync_client=True) as client:
        dead = [run for run in _under_way(client) if _was_left(run)]
        return [run.name for run in dead if _crash(client, run)]


def _crash(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Mark a flow run and its tasks as crashed; return False if the server fails, and leave them to the next start."""
    message = f"{_process(run.labels)} crashed without an error message; retry to continue where it stopped"
    gone: State[None] = Crashed(message=message)
    try:
        client.set_flow_run_state(run.id, gone, force=True)
        for task in client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": _UNFINISHED}, "name": None}}),
        ):
            client.set_task_run_state(task.id, gone, force=True)
    except PrefectHTTPStatusError:
        return False
    return True


def _under_way(client: SyncPrefectClient) -> Iterator[FlowRun]:
    asked = FlowRunFilter.model_validate({"state": {"type": {"any_": _UNDER_WAY}}})
    page, size = 0, 200
    while found := client.read_flow_runs(flow_run_filter=asked, limit=size, offset=page * size):
        yield from found
        page += 1


def _was_left(run: FlowRun) -> bool:
    process = _process(run.labels)
    suspended = run.state is not None and run.state.name == "Suspended"  # Its process was meant to end.
    return process is not None and process.dead and run.labels.get(Tag.TRY) == run.run_count and not suspended


def _process(labels: Mapping[str, Any]) -> Process | None:
    try:
        found = {name: labels[f"{_LABEL}{name}"] for name in ("host", "machine", "pid", "began")}
        return Process(str(found["host"]), str(found["machine"]), int(found["pid"]), int(found["began"]))
    except (KeyError, TypeError, ValueError):
        return None

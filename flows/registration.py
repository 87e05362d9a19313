"""Register prefect.yaml with a Prefect server: work pool, deployments, and the watch for crashed runs."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml  # Prefect's own dependency.
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from sia_core.domain.errors import ServiceError
from sia_core.domain.task import Task

POOL = "sia"
EVOLVE = "flows.deployments.evolve_task"
TAG = "sia"
ZOMBIES = "sia: crash runs that went silent"
SILENT = timedelta(minutes=10)
"""Time without a heartbeat after which a run counts as dead: three of Prefect's default (180 s) and one minute. The
next process on the same machine finds its dead runs without waiting (`crashed_runs`)."""
_FILE = "prefect.yaml"


def deploy(tasks: Sequence[str] = (), limit: int | None = None) -> list[str]:
    """Register or update everything, and return the names of the deployments.

    Args:
        tasks: paths of your own tasks, which get a deployment beside those of prefect.yaml.
        limit: runs at a time over all workers of the pool; if not given, the limit is not changed.

    Raises:
        ServiceError: prefect.yaml cannot be found.
        TaskError: a task cannot be used.
    """
    rows = [*_rows(), *map(_row_of, tasks)]
    with get_client(sync_client=True) as client:
        _make_pool(client, limit)
    names = [_register(row) for row in rows]
    _watch()
    return names


def _rows() -> list[dict[str, Any]]:
    here = Path(__file__).resolve().parent
    file = next((folder / _FILE for folder in (here, here.parent) if (folder / _FILE).exists()), None)
    if file is None:
        raise ServiceError(f"{_FILE} is missing", where=str(here.parent), hint="install SIA again")
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text())["deployments"]
    return found


def _row_of(where: str) -> dict[str, Any]:
    task = Task.load(where)
    row = next(row for row in _rows() if row["entrypoint"] == EVOLVE)
    return {
        **row,
        "name": task.name,
        "description": f"{task.config.title}. Starts a new run; Retry resumes it.",
        "tags": [TAG, task.name],
        "parameters": {"settings": {"task": task.where}},
        "schedules": [],
    }


def _register(row: Mapping[str, Any]) -> str:
    deployment = RunnerDeployment.from_entrypoint(
        entrypoint=row["entrypoint"],
        name=row["name"],
        description=row["description"],
        tags=row["tags"],
        parameters=row.get("parameters"),
        schedules=[_schedule(one) for one in row.get("schedules", ())],
        enforce_parameter_schema=row["enforce_parameter_schema"],
        work_pool_name=row["work_pool"]["name"],
    )
    deployment.apply()
    return deployment.full_name


def _schedule(row: Mapping[str, Any]) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=row["cron"], timezone=row["timezone"]), active=row["active"]
    )


def _make_pool(client: SyncPrefectClient, limit: int | None) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template, concurrency_limit=limit)
        client.create_work_pool(pool)
    else:
        if limit is not None:
            client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=limit))


def _watch() -> None:
    """Register the automation that marks SIA's silent flow runs as crashed, above all on other machines."""
    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *ends},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENT,
    )
    message = f"silent for {SILENT.seconds // 60} minutes; retry to continue where it stopped"
    wanted = AutomationCore(
        name=ZOMBIES,
        description="Its process or the whole machine crashed without an error message.",
        trigger=trigger,
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)],
    )
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(ZOMBIES)
        if found:
            client.update_automation(found[0].id, wanted)
        else:
            client.create_automation(wanted)

"""Deployments: the flows that Prefect starts from a form, and their registration with a server.

A deployed flow runs in a fresh process of a worker. A retry has to find what the first try made, so each record carries
the id of the flow run it came from. `deploy` registers the deployments of prefect.yaml, their work pool, and the
automation that marks silent runs as crashed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml  # Prefect's own dependency.
from prefect import flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows import crashed_runs
from flows.comparison import go_through
from flows.forms import ArmsForm, EvolveForm, GenerationForm, ReportForm
from flows.progress import shown
from flows.run import closing, keep_report, see_through
from sia_core.domain.errors import ServiceError
from sia_core.domain.task import Task
from sia_core.loop import create_run
from sia_core.loop.rerun import ORIGIN, rerun
from sia_core.loop.session import reporter
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import RunRecord
from sia_core.search.arms import ArmsPlan

POOL = "sia"
EVOLVE = "flows.deployments.evolve_task"
TAG = "sia"
ZOMBIES = "sia: crash runs that went silent"
SILENT = timedelta(minutes=10)
"""Three heartbeats of Prefect's default (180 s), and a minute more: a live run is never taken for a dead one, whatever
process it runs in. A machine's own dead are found at its next start (`reaper`), without waiting."""
_FILE = "prefect.yaml"


def deploy(tasks: Sequence[str] = (), limit: int | None = None) -> list[str]:
    """Register everything, again if it is there; names of the deployments.

    Args:
        tasks: of the user's own, by path, that get a deployment beside those of prefect.yaml.
        limit: runs at a time over all workers of the pool; as it is, or none, when not given.

    Raises:
        ServiceError: prefect.yaml cannot be found.
        TaskError: a task that cannot be used.
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
        "description": f"{task.config.title}. A run of its own; Retry goes on where it was cut.",
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
    """The automation that crashes flow runs of ours whose process is silent: those of other machines, above all."""
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
    message = f"silent for {SILENT.seconds // 60} minutes; retry to go on where it stopped"
    wanted = AutomationCore(
        name=ZOMBIES,
        description="Its process, or the whole machine, died without a word.",
        trigger=trigger,
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)],
    )
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(ZOMBIES)
        if found:
            client.update_automation(found[0].id, wanted)
        else:
            client.create_automation(wanted)


@flow(name="evolve", flow_run_name="{settings.task}", persist_result=False)
def evolve_task(settings: EvolveForm) -> None:
    """Start a run of a task and see it through; a retry goes on with the same run."""
    with _prepared(settings.task):
        run = _begun(settings)
        _call(run.name)
        with closing(run):
            see_through(run.name)


@flow(name="generation", flow_run_name="{settings.run}/{settings.generation}", persist_result=False)
def redo_generation(settings: GenerationForm) -> None:
    """Make a generation of a run again, or more of them, and see the run through."""
    with _prepared(settings.run):
        run = rerun(settings.run, settings.generation, forked=settings.fork, origin=_origin())
        create_run.prepare(run.config, reporter.get())
        _call(f"{run.name} from {settings.generation}")
        with closing(run):
            see_through(run.name)


@flow(name="arms", flow_run_name="{settings.task}", persist_result=False)
def compare_arms(settings: ArmsForm) -> None:
    """Compare arms on a task; a retry goes on with the same comparison."""
    with _prepared(settings.task):
        record, origin = create_run.record(), _origin()
        found = record.search(f"tags.`{ORIGIN}` = '{origin}' and tags.`sia.kind` = 'arms'")
        if found:
            comparison = ArmsRecord(record, found[0])
            create_run.prepare(ArmsPlan.model_validate(comparison.plan).config, reporter.get())
        else:
            comparison = create_run.open_arms(settings.plan(), {ORIGIN: origin})
        _call(comparison.name)
        with closing(comparison):
            go_through(comparison.name)


@flow(name="report", flow_run_name="{settings.run}", persist_result=False)
def report_run(settings: ReportForm) -> None:
    """Make the report of a run anew, as far as the run has come, and leave a link to it."""
    with _prepared(settings.run):
        run = create_run.record().open(settings.run)
        _call(run.name)
        keep_report(run)


def _begun(settings: EvolveForm) -> RunRecord:
    """The run of this flow run: as an earlier try began it, or a new one."""
    record, origin = create_run.record(), _origin()
    for found in record.search(f"tags.`{ORIGIN}` = '{origin}' and tags.`sia.kind` = 'evolution'"):
        run = RunRecord(record, found)
        if run.begun:
            create_run.prepare(run.config, reporter.get())
            return run
    config = settings.config()
    sandbox = create_run.check_sandbox(config)
    task, harness = create_run.prepare(config, reporter.get())
    return create_run.open_run(config, task, harness, sandbox, origin={ORIGIN: origin})


@contextmanager
def _prepared(about: str) -> Iterator[None]:
    """What the command line does before any flow."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    crashed_runs.mark()
    crashed_runs.reap()
    with shown(about):
        yield


def _origin() -> str:
    return str(runtime.flow_run.id)


def _call(name: str) -> None:
    """Name the flow run after the run it turned out to be."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(runtime.flow_run.id, name)

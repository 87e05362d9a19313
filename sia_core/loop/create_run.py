"""Open a run: check everything before anything is spent, then write the first record."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version

from sia_core.agents.fit import check_fit
from sia_core.agents.recorded import recorded_tags
from sia_core.agents.registry import check_agent, replayed_history
from sia_core.domain.candidate import Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import SEED_NODE, Node
from sia_core.domain.rollout import SPLITS
from sia_core.domain.task import Task
from sia_core.engine.sandbox import probe
from sia_core.engine.sandbox.protocol import TierReport
from sia_core.host.environment import describe
from sia_core.host.external import absolute_database, is_database, is_http, masked
from sia_core.host.home import home, private_files
from sia_core.host.progress import Reporter
from sia_core.host.servers import find
from sia_core.host.services import Service, mlflow_service
from sia_core.loop import fingerprint
from sia_core.loop.agent_jail import check_command
from sia_core.loop.connect import Contacts
from sia_core.loop.connect import keep as keep_contacts
from sia_core.loop.connect import tags as connection_tags
from sia_core.loop.session import NOBODY, reporter
from sia_core.loop.splits import check_splits, remarks
from sia_core.policy.registry import check_spec, policy_digest, prepare_policy
from sia_core.record.branch import Branch
from sia_core.record.history import FILE as HISTORY
from sia_core.record.history import take_history
from sia_core.record.namesakes import names_of, namesakes
from sia_core.record.patience import say_on_stderr
from sia_core.record.phases import StartDone
from sia_core.record.store import Record, RunRecord, open_record
from sia_core.record.tags import Tag
from sia_core.weights.algorithms import check_algorithm


def record() -> Record:
    """Open the MLflow store of MLFLOW_TRACKING_URI, or the one under SIA_HOME; it says what this process listens to."""
    listener = reporter.get()
    say = say_on_stderr if listener is NOBODY else listener.say
    return open_record(home(), os.environ.get("MLFLOW_TRACKING_URI"), say)


def prepare(config: RunConfig, reporter: Reporter) -> tuple[Task, Harness | None]:
    """Check task, harness and policy, and fetch what they need. Idempotent.

    The harness is None if it will be written, or comes from another run.
    """
    check_spec(config.policy)
    check_agent(config.agent, config.agent_dollars)
    check_command(config)
    task = Task.load(config.task)
    if differences := check_fit(config, task):
        reporter.say(f"differs from the recorded run: {'; '.join(differences)}")
    check_algorithm(task.config.update.algorithm, str(task.path / "task.toml"))
    harness = None if config.meta or config.branch_from else Harness.load(task.path / task.config.harness)
    _ = task.module
    task.prepare(reporter.progress)
    task.receive()
    check_splits(config, task)
    for line in remarks(config, task):
        reporter.say(line)
    prepare_policy(config.policy, reporter.progress)
    return task, harness


def prepare_again(config: RunConfig, reporter: Reporter, *runs: RunRecord) -> None:
    """Prepare to resume runs: nothing of a task is loaded that has changed since they began. See `prepare`.

    Raises:
        RecordError: the task has changed.
    """
    task = Task.load(config.task)  # Reads task.toml; its code is loaded by `prepare`.
    for run in runs:
        fingerprint.check_same_task(run, task)
    prepare(config, reporter)


def namesake_lines(store: Record, task: Task) -> list[str]:
    """Say that runs under the task's name belong to another directory; empty if there are none."""
    found = namesakes(store, task)
    if not found:
        return []
    newest = found[0].data
    others = "1 run" if len(found) == 1 else f"{len(found)} runs"
    return [
        f"task {task.name} of {task.where}: {others} under this name belong to another task, in "
        f"{newest.params.get('task')} ({newest.tags[Tag.RUN]}). Agents do not learn from them. "
        "To keep the records apart, give one of the two another name in its task.toml"
    ]


def check_sandbox(config: RunConfig) -> TierReport | None:
    """Run the self-test of the requested tier; None for tier `none`, which has none."""
    return None if config.sandbox == "none" else probe(tier=config.sandbox)


def open_run(
    config: RunConfig,
    task: Task,
    harness: Harness | None,
    sandbox: TierReport | None,
    member: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
    contacts: Contacts | None = None,
) -> RunRecord:
    """Create the run in MLflow, with its seed candidate if it already exists.

    Args:
        member: tags of a run in a comparison. Its agents see no other run, so that the runs stay independent.
        origin: tags that say where the run comes from.
        contacts: first contacts with the servers of policy and agent.
    """
    contacts = contacts or {}
    taken = fingerprint.take(config, task)
    tags = {
        Tag.TASK: task.name,
        Tag.TASK_DIGEST: task.digest,
        **fingerprint.tags(taken),
        Tag.POLICY: config.policy,
        Tag.POLICY_DIGEST: taken["policy"][config.policy],
        Tag.AGENT: config.agent,
        **recorded_tags(config.agent, task),
        Tag.LEVERS: ",".join(config.levers) or "none",
        Tag.VERSION: version("sia"),
        Tag.SANDBOX_TIER: config.sandbox,
        Tag.SANDBOX_MISSING: ",".join(sandbox.missing) if sandbox else "all",
        **connection_tags(contacts),
        Tag.SANDBOX_PROBE: sandbox.probe_digest if sandbox else "",
        "mlflow.note.content": f"{task.config.title}. Policy {config.policy}, agent {config.agent}.",
    }
    with private_files():
        run = record().create(config, {**tags, **(member or {}), **(origin or {})})
        run.put_json("sandbox.json", asdict(sandbox) if sandbox else None)
        run.put_json("environment.json", describe())
        run.put_json(fingerprint.FILE, taken)
        if contacts:
            keep_contacts(run, contacts)
        complete_opening(run, task, harness)
    return run


def complete_opening(run: RunRecord, task: Task, harness: Harness | None = None) -> None:
    """Write what a run needs before its first generation and an interrupted opening may have left out."""
    if run.phase(StartDone) is not None:
        return
    config = run.config
    run.put_datasets(task.name, {split: [problem.id for problem in task.problems(split)] for split in SPLITS})
    if run.get_bytes(HISTORY) is None:
        history = [] if Tag.ARMS in run.tags else replayed_history(config.agent)
        run.put_json(
            HISTORY, take_history(run.record, run.experiment_id, run.name, task) if history is None else history
        )
    if config.branch_from:
        _plant_branch(run, Branch.find(run.record, config.branch_from))
    elif not config.meta:
        plant_seed(run, harness or Harness.load(task.path / task.config.harness))


def plant_seed(run: RunRecord, harness: Harness, adapter: str | None = None) -> None:
    """Make the harness, under the bare policy or a stored adapter, the first node of the lineage."""
    run.put_harness(harness)
    seed = Node(SEED_NODE, None, Candidate(harness.digest, adapter), "seed", promoted=True)
    run.complete(StartDone(node=seed))


def branch(config: RunConfig, text: str, seed: int | None) -> RunConfig:
    """Let the run start from a node of another run.

    Args:
        config: configuration of the run.
        text: `RUN:GENERATION`, or `RUN` for its champion.
        seed: requested seed; None for that run's seed plus 1.

    Raises:
        UsageError, RecordError: see `Branch.find` and `Branch.check`.
    """
    found = Branch.find(record(), text)
    seed = found.run.config.seed + 1 if seed is None else seed
    task = Task.load(config.task)
    found.check(task.name, policy_digest(config.policy), seed)
    if found.run.name in names_of(namesakes(found.run.record, task)):
        what = f"{found} is of another task named {task.name}, in {found.run.config.task}"
        raise UsageError(what, where="--branch-from", hint="give one of the two tasks another name in its task.toml")
    return config.model_copy(update={"branch_from": str(found), "seed": seed, "meta": False})


def _plant_branch(run: RunRecord, found: Branch) -> None:
    """Copy the node's harness and adapter into the run and start there."""
    candidate = found.node.candidate
    adapter = found.run.adapter(candidate.adapter)
    if adapter is not None:
        run.put_adapter(adapter, {"branch_from": str(found)})
    run.set_tags({Tag.BRANCH_FROM: str(found)})
    plant_seed(run, found.run.harness(candidate.harness), candidate.adapter)


def own_mlflow() -> Service | None:
    """Return the MLflow server that SIA runs for the store in use; None if the store is a server or no database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return mlflow_service()
    return mlflow_service(absolute_database(uri)) if is_database(uri) else None


def mlflow_address() -> str | None:
    """Return the address of an MLflow that answers and shows this store, or None if there is none.

    A server that MLFLOW_TRACKING_URI names holds the store itself. It was asked when the store was opened.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if is_http(uri):
        return masked(uri)
    service = own_mlflow()
    running = find(service, home()) if service else None
    return running.url if running else None

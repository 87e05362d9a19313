"""What the phases of one run share: record, task, engine, journal, agents.

A session is opened once by whoever comes first, the `evolve` flow or a single `generation`
retried on its own, and joined by every flow and task below it. It holds the run's lock, so
two processes never write one run.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.ledger import Ledger
from sia_core.agents.conversation import Allowance
from sia_core.agents.prices import policy_price
from sia_core.agents.registry import Agents, load_agents
from sia_core.budget import Spent
from sia_core.config import RunConfig
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.errors import RecordError
from sia_core.home import home
from sia_core.progress import Reporter, Silent
from sia_core.record.beacon import Beacon
from sia_core.record.history import read_history
from sia_core.record.journal import Journal
from sia_core.record.store import RunRecord, open_record
from sia_core.record.traces import RunTrace
from sia_core.task import Task

reporter: ContextVar[Reporter] = ContextVar("reporter", default=Silent())  # noqa: B039  (stateless)
"""Who listens to progress in this process."""

_current: ContextVar["Session | None"] = ContextVar("session", default=None)


@dataclass(frozen=True)
class Session:
    """Everything a phase needs."""

    folder: Path
    """Local working directory of the run."""
    run: RunRecord
    config: RunConfig
    task: Task
    engine: Engine
    journal: Journal
    agents: Agents
    reporter: Reporter
    ledger: Ledger


@contextmanager
def open_session(name: str) -> Iterator[Session]:
    """Join the open session of this run, or open one.

    Raises:
        RecordError: unknown run, a run held by another process, or one whose task has changed.
    """
    joined = _current.get()
    if joined is not None and joined.run.name == name:
        yield joined
        return
    run = open_record(home(), os.environ.get("MLFLOW_TRACKING_URI")).open(name)
    folder = home() / "runs" / run.name
    with _hold(folder, run.name):
        config = run.config
        task = Task.load(config.task)
        check_unchanged(run, task)
        settings = EngineConfig(
            config.policy,
            config.tier,
            config.threads,
            batch=config.batch,
            workers=config.workers,
            graders=config.graders,
            folder=folder,
        )
        engine = Engine(settings, task, reporter.get().say)
        with engine, Journal(folder / "journal.db") as journal, Beacon(run, reporter.get()) as beacon:
            ledger = Ledger(run, journal, task.config.resources, policy_price(config.policy), beacon)
            agents = _load_agents(run, config, folder, ledger)
            session = Session(folder, run, config, task, engine, journal, agents, beacon, ledger)
            token = _current.set(session)
            try:
                yield session
            finally:
                _current.reset(token)
                ledger.close()


def _load_agents(run: RunRecord, config: RunConfig, folder: Path, ledger: Ledger) -> Agents:
    def keep(generation: int, sibling: int, conversation: Mapping[str, Any]) -> None:
        used = conversation["usage"]
        tokens = used["prompt_tokens"] + used["output_tokens"]
        ledger.spend(f"agent/{generation}/{sibling}", "agents", Spent(tokens=tokens, dollars=used["dollars"] or 0.0))
        stored = run.generation(generation).sibling(sibling) if generation else run
        stored.put_json("agent/conversation.json", conversation)

    return load_agents(
        config.agent,
        allowance=Allowance(config.agent_turns, config.agent_tokens, config.agent_dollars),
        log=folder / "agent.jsonl",
        history=lambda: read_history(run),
        keep=keep,
        trace=RunTrace(run),
    )


def check_unchanged(run: RunRecord, task: Task) -> None:
    """A run goes on only with the task it began with.

    Raises:
        RecordError: the task's files are not the ones the run was started on.
    """
    recorded = run.tags["sia.task_digest"]
    if recorded != task.digest:
        raise RecordError(
            f"task {task.name} has changed since the run began ({recorded[:12]} then, {task.digest[:12]} now)",
            where=run.name,
            hint="restore the task's files, or start a new run",
        )


@contextmanager
def _hold(folder: Path, name: str) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise RecordError(
                f"is being run by process {holder}", where=name, hint="wait for it, or end it and resume"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield

"""Share the resources of a run between its phases: record, task, engine, journal, agents.

The first flow of a process, `evolve` or a single retried `generation`, opens the session, and every flow and task below
it joins. The session holds the run's lease, so that no two processes on any machines write to one run.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.agents.conversation import Allowance
from sia_core.agents.prices import policy_price
from sia_core.agents.registry import Agents, load_agents
from sia_core.domain.config import RunConfig
from sia_core.domain.json_data import read
from sia_core.domain.task import Task
from sia_core.domain.usage import ModelUsage, Usage
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.host.home import home, private_directory, private_files
from sia_core.host.progress import Reporter, Silent
from sia_core.loop.agent_jail import commanding
from sia_core.loop.connect import Connections
from sia_core.loop.fingerprint import check_unchanged
from sia_core.loop.serving import check_serving
from sia_core.loop.spending import Ledger
from sia_core.policy.dialect import Learner
from sia_core.record.beacon import Beacon
from sia_core.record.history import read_history
from sia_core.record.journal import Journal
from sia_core.record.lease import hold
from sia_core.record.phases import ImproveDone
from sia_core.record.rewind import refill
from sia_core.record.store import RunRecord, open_record
from sia_core.record.tags import Tag
from sia_core.record.traces import RunTrace

NOBODY: Reporter = Silent()
reporter: ContextVar[Reporter] = ContextVar("reporter", default=NOBODY)
"""Listener for progress in this process."""

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
    connections: Connections | None = None
    """Contacts with the servers of the run's models."""


@contextmanager
def open_session(name: str) -> Iterator[Session]:
    """Join the open session of this run, or open one.

    Raises:
        RecordError: the run is unknown, held by another process, or its task, code, policy or configuration has
            changed.
    """
    joined = _current.get()
    if joined is not None and joined.run.name == name:
        yield joined
        return
    run = open_record(home(), os.environ.get("MLFLOW_TRACKING_URI"), reporter.get().say).open(name)
    folder = private_directory(home() / "runs") / run.name
    with private_files(), hold(run, reporter.get().say):
        config = run.config
        task = Task.load(config.task)
        check_unchanged(run, task)
        connections = Connections.open(run, config, task, reporter.get())
        settings = EngineConfig(
            config.policy,
            config.sandbox,
            config.threads,
            batch=config.batch,
            workers=config.workers,
            graders=config.graders,
            folder=folder,
            dialect=connections.dialect("policy"),
        )
        engine = Engine(settings, task, reporter.get().say)
        with engine, Journal(folder / "journal.db") as journal, Beacon(run, reporter.get()) as beacon:
            check_serving(run, config, task, engine, folder, beacon)
            ledger = Ledger(run, journal, task.config.resources, policy_price(config.policy), beacon)
            restore(run, ledger, journal, config.siblings)
            connections.charge(ledger)
            agents = _load_agents(run, config, task, folder, ledger, beacon, connections.learner("agent"))
            session = Session(folder, run, config, task, engine, journal, agents, beacon, ledger, connections)
            token = _current.set(session)
            try:
                yield session
            finally:
                _current.reset(token)
                ledger.close()


def _load_agents(
    run: RunRecord,
    config: RunConfig,
    task: Task,
    folder: Path,
    ledger: Ledger,
    listener: Reporter,
    learner: Learner | None,
) -> Agents:
    forgotten = run.tags.get(Tag.FORGOTTEN, "0")

    def keep(generation: int, sibling: int, conversation: Mapping[str, Any]) -> None:
        used = read(ModelUsage, conversation["usage"])
        stored = run.generation(generation).sibling(sibling) if generation else run
        # By MLflow's id: a repeated generation asks again, and is paid again.
        key = f"agent/{stored.run_id}/{sibling}"
        ledger.spend(key, "agents", Usage(tokens=used.tokens, dollars=used.dollars or 0.0))
        stored.put_json("agent/conversation.json", conversation)

    return load_agents(
        config.agent,
        task,
        allowance=Allowance(
            config.agent_turns, config.agent_tokens, config.agent_dollars, reply=config.agent_reply_tokens
        ),
        silence_s=config.agent_timeout,
        # Answers in forgotten generations are not reused: the agent is asked again.
        log=folder / f"agent{f'-{forgotten}' if forgotten != '0' else ''}.jsonl",
        history=lambda: read_history(run),
        keep=keep,
        trace=RunTrace(run),
        reporter=listener,
        means=commanding(config, task, folder, forgotten),
        learner=learner,
    )


def restore(run: RunRecord, ledger: Ledger, journal: Journal, siblings: int) -> int:
    """Put the recorded rollouts of unfinished generations and their costs into the journal; return how many were new.

    Rollouts of an interrupted phase are in no record yet, and are played again. An empty journal gets the rollouts of
    all other generations too; the record has their cost.
    """
    empty = not len(journal)
    unfinished = [generation for generation in run.generations() if generation.phase(ImproveDone) is None]
    parts = [generation.sibling(number) for generation in unfinished for number in range(siblings)]
    rollouts = [rollout for part in parts for name in part.rollout_sets() for rollout in part.own_rollouts(name)]
    new = sum(ledger.settle(rollout) for rollout in rollouts)
    if empty:
        refill(run, journal)
    return new

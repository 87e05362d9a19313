"""A run without Ray for tests of flows: the real record, journal and sandbox, and a single process that plays."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import SandboxError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import SEED_NODE, Node
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.worker import RolloutRunner
from sia_core.host.progress import SILENT, Reporter, Silent
from sia_core.loop.execute import execute
from sia_core.loop.session import Session
from sia_core.loop.spending import Ledger
from sia_core.policy.protocol import Completion, Policy, Request
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.record.journal import Journal
from sia_core.record.phases import StartDone
from sia_core.record.store import open_record
from tests.factories import TOY

TOML = b'name = "h"\n[knobs.n]\nvalue = 1\nrange = [1, 4]\n'
AGENT = 'async def solve(problem, ctx):\n    text = await ctx.chat("Say")\n    return {"colour": "green"}\n'
PARENT = Harness.from_files({"harness.toml": TOML, "agent.py": AGENT.encode(), "prompts/unused": b"One.\n"})


class Real(ScriptedPolicy):
    """A policy whose type differs from that of the contract."""

    def sample(self, request: Request) -> Completion:
        return Completion("real", super().sample(request).prompt)


class InProcess:
    """A stand-in for the engine, without Ray."""

    def __init__(self, runner: RolloutRunner, policy: Policy) -> None:
        self._runner, self.policy = runner, policy
        self.played: list[Unit] = []

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        for unit in units:
            self.played.append(unit)
            yield self._runner.run(unit, harness, adapter, self.policy)


@contextmanager
def open_session(
    home: Path,
    empty_store: Path,
    *,
    config: RunConfig | None = None,
    policy: Policy | None = None,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Iterator[Session]:
    """A session whose first generation was executed.

    Args:
        config: configuration of a run of its task with the task's own harness and the scripted policy, in place of the
            toy with settings and a policy of its own.
        policy: policy in place of that one.
    """
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    shutil.copy(empty_store, home)
    task = Task.load(config.task if config else TOY)
    harness = Harness.load(task.path / task.config.harness) if config else PARENT
    plan = {
        "problems": 4,
        "rollouts": 2,
        "gate_problems": 2,
        "gate_rollouts": 1,
        "test_problems": 2,
        "test_rollouts": 1,
    }
    own = config
    config = config or RunConfig(task=TOY, policy="scripted", **{"generations": 1, **plan, **settings})
    run = open_record(home, None).create(config, {"sia.task": "toy", "sia.task_digest": task.digest})
    run.put_harness(harness)
    seed = Node(SEED_NODE, None, Candidate(harness.digest), "seed", promoted=True)
    run.complete(StartDone(node=seed))
    with closing(RolloutRunner(task, "strict")) as runner, Journal(Path(home) / "journal.db") as journal:
        engine = cast("Any", InProcess(runner, policy or (ScriptedPolicy() if own else Real())))
        ledger = Ledger(run, journal, task.config.resources, None, Silent())
        made = Session(home, run, config, task, engine, journal, cast("Any", SimpleNamespace()), reporter, ledger)
        execute(made, 1)
        yield made

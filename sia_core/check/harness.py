"""Check that the seed harness loads and passes the cheap rungs, and that its rollout gets a verdict."""

from sia_core.agents import static
from sia_core.check.report import Finding
from sia_core.domain.command import quoted
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import RungResult
from sia_core.domain.rollout import NO_VERDICT, Unit
from sia_core.domain.task import Task
from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.scripted import ScriptedPolicy

_HINT = "see docs/tasks.md for what a harness is"


def check_harness(task: Task, tier: Tier) -> Finding:
    """Run rungs `static`, `import` and `contract`, then one rollout with the policy `scripted`.

    Raises:
        SandboxError: no sandbox of the tier is available.
    """
    folder = task.path / task.config.harness
    if not folder.exists():
        how = f"a run then begins with: sia run {quoted(task.where)} --meta"
        return Finding("harness", "skipped", f"no {task.config.harness}/", how)
    try:
        harness = Harness.load(folder)
    except HarnessError as error:
        return Finding("harness", "failed", str(error).splitlines()[0], error.hint or _HINT)
    allowed = static.Allowed.of(harness.config, task.config.rewrite)
    rung = static.check(harness, None, allowed)
    if not rung.passed:
        return _failed(rung)
    runner = RolloutRunner(task, tier)
    try:
        return _run(task, harness, runner)
    finally:
        runner.close()


def _run(task: Task, harness: Harness, runner: RolloutRunner) -> Finding:
    problem = task.problems("train")[0].id
    for rung in (check_import(runner, harness), check_contract(runner, task, [problem], harness, None)):
        if not rung.passed:
            return _failed(rung)
    unit = Unit(task.digest, harness.digest, ScriptedPolicy.digest, None, "train", problem, 0, task.sampling)
    rollout = runner.run(unit, harness, None, ScriptedPolicy())
    failure = rollout.failure
    if failure is not None and (failure.infrastructure or failure.kind in NO_VERDICT):
        seen = f"a rollout on {problem} got no verdict: {failure.kind}: {failure.reason}"[:300]
        return Finding("harness", "failed", seen, "return a verdict for any answer of a harness")
    said = f"score {rollout.score:.4g}" if failure is None else f"ended as {failure.kind}: {failure.reason}"[:160]
    seen = f"{harness.config.name} loads, passes static, import, contract; a rollout with random choices: {said}"
    return Finding("harness", "passed", seen)


def _failed(rung: RungResult) -> Finding:
    return Finding("harness", "failed", f"rung {rung.rung}: {rung.reason}", _HINT)

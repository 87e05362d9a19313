"""The checks behind `sia check`, which find faults of a task.

The task's own code is trusted and runs here; programs in answers run in the sandbox only. Not covered: answers that
fool a verifier and that no check generates. Write down those you know in `baits(problem)` in task.py.
"""

from collections.abc import Iterator
from contextlib import closing

from sia_core.check import verdicts
from sia_core.check.fingerprint import sampled
from sia_core.check.harness import check_harness
from sia_core.check.problems import check_private, check_repeats, check_splits
from sia_core.check.report import Finding, Report, Tell
from sia_core.domain.errors import TaskError
from sia_core.domain.rollout import SPLITS, Verdict
from sia_core.domain.task import Progress, Task
from sia_core.engine.sandbox import hide, open_sandbox
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.worker import SandboxLab, packages_of


def check_task(task: Task, *, tier: Tier, problems: int, tell: Tell, progress: Progress) -> Report:
    """Run every check; `tell` receives each finding immediately.

    Args:
        problems: number of training problems on which every kind of answer is verified.

    Raises:
        FetchError: the task's data cannot be fetched.
        SandboxError: no sandbox of the tier is available.
    """
    found: list[Finding] = []
    for finding in _findings(task, tier, problems, progress):
        found.append(finding)
        tell(finding)
    return Report(task.name, task.digest, tuple(found), all(finding.status != "failed" for finding in found))


def measure_gold(task: Task, tier: Tier) -> Verdict:
    """Verify the right answer of the first training problem.

    Raises:
        TaskError: the right answer is invalid.
        SandboxError: no sandbox of the tier is available.
    """
    hide(task.path)
    problem = task.problems("train")[0]
    packages = packages_of(task)
    with (
        closing(open_sandbox(tier, packages=packages)) as sandbox,
        closing(SandboxLab(sandbox, packages)) as lab,
    ):
        verdict = verdicts.verified(task, problem, task.gold(problem), lab)
    if not verdict.valid:
        raise TaskError(f"its right answer is {verdict.feedback}", where=str(task.path))
    return verdict


def _findings(task: Task, tier: Tier, problems: int, progress: Progress) -> Iterator[Finding]:
    loaded = _load(task, progress)
    yield loaded
    if loaded.status == "failed":
        return
    hide(task.path)
    yield check_splits(task)
    yield check_repeats(task)
    yield check_private(task)
    yield check_harness(task, tier)
    try:
        packages = packages_of(task)
        with (
            closing(open_sandbox(tier, packages=packages)) as sandbox,
            closing(SandboxLab(sandbox, packages)) as lab,
        ):
            trials = verdicts.Trials(task, sampled(task.problems("train"), problems), lab)
    except TaskError as error:
        yield Finding("gold", "failed", f"{error.where}: {error.what}"[:300], error.hint or "see docs/tasks.md")
        return
    yield verdicts.check_gold(task, trials)
    yield verdicts.check_chance(task, trials)
    yield verdicts.check_hostile(trials)
    yield verdicts.check_verdicts_repeat(task, trials)
    yield verdicts.check_range(task, trials)
    yield verdicts.check_feedback(trials)


def _load(task: Task, progress: Progress) -> Finding:
    """Load the task's data, problems and canaries. Errors of fetching and of the sandbox are no findings."""
    try:
        task.prepare(progress)
        task.receive()
        counts = ", ".join(f"{split} {len(task.problems(split))}" for split in SPLITS)
        offered = task.canaries.count
    except TaskError as error:
        return Finding("load", "failed", str(error).splitlines()[0], error.hint or "see docs/tasks.md")
    return Finding("load", "passed", f"{task.path}: {counts}; metric: {task.config.metric}; {offered} canaries")

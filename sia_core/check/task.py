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
from sia_core.domain.errors import FetchError, SandboxError, TaskError
from sia_core.domain.rollout import SPLITS, Verdict
from sia_core.domain.task import Progress, Task
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.worker import SandboxLab


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
    problem = task.problems("train")[0]
    with closing(open_sandbox(tier)) as sandbox, closing(SandboxLab(sandbox)) as lab:
        verdict = verdicts.verified(task, problem, task.module.gold(problem), lab)
    if not verdict.valid:
        raise TaskError(f"its right answer is {verdict.feedback}", where=str(task.path))
    return verdict


def _findings(task: Task, tier: Tier, problems: int, progress: Progress) -> Iterator[Finding]:
    loaded = _load(task, progress)
    yield loaded
    if loaded.status == "failed":
        return
    yield check_splits(task)
    yield check_repeats(task)
    yield check_private(task)
    yield check_harness(task, tier)
    with closing(open_sandbox(tier)) as sandbox, closing(SandboxLab(sandbox)) as lab:
        trials = verdicts.Trials(task, sampled(task.problems("train"), problems), lab)
    yield verdicts.check_gold(task, trials)
    yield verdicts.check_chance(task, trials)
    yield verdicts.check_hostile(trials)
    yield verdicts.check_verdicts_repeat(task, trials)
    yield verdicts.check_range(task, trials)
    yield verdicts.check_feedback(trials)


def _load(task: Task, progress: Progress) -> Finding:
    """Load the task's data, problems and canaries."""
    try:
        task.prepare(progress)
        counts = ", ".join(f"{split} {len(task.problems(split))}" for split in SPLITS)
        offered = task.canaries.count
    except (FetchError, SandboxError):
        raise
    except TaskError as error:
        return Finding("load", "failed", str(error).splitlines()[0], error.hint or "see docs/tasks.md")
    except Exception as error:  # noqa: BLE001  (task code may raise anything)
        return Finding("load", "failed", f"load() raised {type(error).__name__}: {error}"[:300], "see docs/tasks.md")
    return Finding("load", "passed", f"{task.path}: {counts}; metric: {task.config.metric}; {offered} canaries")

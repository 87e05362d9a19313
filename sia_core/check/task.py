"""Proves a task sound, or says what is wrong with it: the checks behind `sia check`.

The task's own code is trusted and runs here; programs in answers run in the sandbox only. What is not covered: a
verifier that can be fooled by an answer nobody thought of. `baits(problem)` in task.py is the place to write down
those that somebody did.
"""

from collections.abc import Iterator
from contextlib import closing

from sia_core.check.fingerprint import sampled
from sia_core.check.harness import check_harness
from sia_core.check.problems import check_private, check_repeats, check_splits
from sia_core.check.report import Finding, Report, Tell
from sia_core.check.verdicts import (
    Trials,
    check_chance,
    check_feedback,
    check_gold,
    check_hostile,
    check_range,
    check_verdicts_repeat,
    verified,
)
from sia_core.domain.errors import FetchError, SandboxError, TaskError
from sia_core.domain.rollout import SPLITS, Verdict
from sia_core.domain.task import Progress, Task
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.worker import SandboxLab


def check_task(task: Task, *, tier: Tier, problems: int, tell: Tell, progress: Progress) -> Report:
    """Run every check; `tell` hears each finding as it is made.

    Args:
        problems: training problems on which every kind of answer is verified.

    Raises:
        FetchError: its data cannot be had.
        SandboxError: no sandbox of the tier can be had.
    """
    found: list[Finding] = []
    for finding in _findings(task, tier, problems, progress):
        found.append(finding)
        tell(finding)
    return Report(task.name, task.digest, tuple(found), all(finding.status != "failed" for finding in found))


def measure_gold(task: Task, tier: Tier) -> Verdict:
    """Verdict on the right answer of the first training problem.

    Raises:
        TaskError: there is none, or it is invalid.
        SandboxError: no sandbox of the tier can be had.
    """
    problem = task.problems("train")[0]
    with closing(open_sandbox(tier)) as sandbox, closing(SandboxLab(sandbox)) as lab:
        verdict = verified(task, problem, task.module.gold(problem), lab)
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
        trials = Trials(task, sampled(task.problems("train"), problems), lab)
    yield check_gold(task, trials)
    yield check_chance(task, trials)
    yield check_hostile(trials)
    yield check_verdicts_repeat(task, trials)
    yield check_range(task, trials)
    yield check_feedback(trials)


def _load(task: Task, progress: Progress) -> Finding:
    """Everything that has to work before a task can be looked at."""
    try:
        task.prepare(progress)
        counts = ", ".join(f"{split} {len(task.problems(split))}" for split in SPLITS)
        offered = len(list(_canaries(task)))
    except (FetchError, SandboxError):
        raise
    except TaskError as error:
        return Finding("load", "failed", str(error).splitlines()[0], error.hint or "see docs/tasks.md")
    except Exception as error:  # noqa: BLE001  (whatever the task's code raises)
        return Finding("load", "failed", f"load() raised {type(error).__name__}: {error}"[:300], "see docs/tasks.md")
    return Finding("load", "passed", f"{task.path}: {counts}; metric: {task.config.metric}; {offered} canaries")


def _canaries(task: Task) -> Iterator[str]:
    _ = task.canaries
    make = getattr(task.module, "canaries", None)
    return iter({text for split in SPLITS for text in make(split)}) if make is not None else iter(())

"""Compare a task's splits with the plan of a run before anything is spent.

A split with fewer problems than the plan asks for is played whole, and the run says so. A split on which a paired
comparison cannot be made at all is an error.
"""

from collections.abc import Iterator

from sia_core.domain.command import command
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import TaskError
from sia_core.domain.plan import Sizes, played
from sia_core.domain.rollout import SPLITS
from sia_core.domain.task import Task
from sia_core.host.downloads import no_fetching

_PAIRED = 2
"""Fewest problems of a paired comparison."""


def sizes_of(task: Task) -> Sizes:
    """Count the problems of each split.

    Raises:
        TaskError: see `Task.problems`.
    """
    return {split: len(task.problems(split)) for split in SPLITS}


def peek(task: Task) -> tuple[Sizes | None, str]:
    """Count the problems of each split without fetching anything; else return None and the reason."""
    files = task.data_sets().values()
    if files and not any(file.exists() for file in files):
        return None, "the task's data are not fetched yet"
    try:
        with no_fetching():
            return sizes_of(task), ""
    except Exception as error:  # noqa: BLE001  (a task's own code, before its data are there)
        return None, f"the task's problems cannot be loaded yet: {getattr(error, 'what', error)}"


def check_splits(config: RunConfig, task: Task) -> None:
    """Refuse splits on which the run's comparisons cannot be made.

    Raises:
        TaskError: a split has too few problems.
    """
    sizes, update = sizes_of(task), task.config.update
    if update.anchors >= sizes["train"]:
        raise TaskError(
            f"anchors = {update.anchors} leaves none of {sizes['train']} training problems",
            where=f"{task.path / 'task.toml'}: [update]",
            hint="use fewer anchors",
        )
    for split in ("gate", "test") if config.levers else ("test",):
        if sizes[split] < _PAIRED:
            raise TaskError(
                f"split {split} has {sizes[split]} problem: candidates are compared on at least {_PAIRED}",
                where=str(task.path / "task.py"),
                hint=f"let load({split!r}) return more problems; then: {command('sia', 'check', task.where)}",
            )


def remarks(config: RunConfig, task: Task, sizes: Sizes | None = None) -> list[str]:
    """Describe each number of the plan that the run will not reach, and what is played instead."""
    return list(_shortfalls(config, task, sizes or sizes_of(task)))


def _shortfalls(config: RunConfig, task: Task, sizes: Sizes) -> Iterator[str]:
    fitted, update = played(config, task.config.update, sizes), task.config.update
    anchors = f", {update.anchors} anchors among them" if update.anchors else ""
    if fitted.problems < config.problems:
        what = f"a generation plays {fitted.problems}, not {config.problems}"
        yield f"problems: train has {sizes['train']} problems{anchors}, so {what}"
    if config.levers and fitted.gate_problems < config.gate_problems:
        what = f"a gate plays {fitted.gate_problems}, not {config.gate_problems}, the same in each generation"
        yield f"gate problems: gate has {sizes['gate']} problems, so {what}"
    elif config.levers and (fresh := sizes["gate"] // config.gate_problems) < config.generations:
        what = f"from generation {fresh + 1} on gates meet problems of earlier ones"
        yield f"gate problems: gate has {sizes['gate']} problems, {config.gate_problems} for each generation: {what}"
    if fitted.test_problems < config.test_problems:
        what = f"the sealed test plays {fitted.test_problems}, not {config.test_problems}"
        yield f"test problems: test has {sizes['test']} problems, so {what}"

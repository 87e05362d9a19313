"""Measure the cost of a verdict: seconds to verify a correct answer once, for every task that offers one.

Tasks are those that ship with SIA and define `gold(problem)` in task.py. Other tasks, and those whose data are not
available here, are named and skipped. Programs run in the strict sandbox. `first` is the first verdict of a process,
with everything that is computed once per problem; `next` is the median of the others. The goals are 2 s a candidate for
denoising, 3 s for trimul, and 0.5 s for all 913 answers of lawbench's test set, at the sizes of the embedded form. They
are measured here on training problems, not on sealed ones.

    python bench/verifiers.py [--quick] [--task NAME ...] [--json FILE]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sia_core.check.fingerprint import sampled
from sia_core.check.verdicts import verified
from sia_core.domain.errors import SiaError
from sia_core.domain.task import Task, task_names
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.sandbox.protocol import Sandbox
from sia_core.engine.worker import SandboxLab

GOALS = {"denoising": (1, 2.0), "trimul": (1, 3.0), "lawbench": (913, 0.5)}
"""Number of verdicts and seconds that they may take together, by task."""


@dataclass(frozen=True)
class Cost:
    """Cost of one task's verifier."""

    verdicts: int
    first_s: float
    next_s: float
    """Median wall clock of single verdicts."""
    most_s: float
    cpu_s: float
    """Median of this process's CPU clock, outside the sandbox."""
    score: float
    goal_verdicts: int
    goal_s: float
    """Goal in seconds; 0 for none."""

    @property
    def goal_took_s(self) -> float:
        """Seconds for the goal's number of verdicts."""
        return self.goal_verdicts * self.next_s


def measure(task: Task, sandbox: Sandbox, problems: int, rounds: int) -> Cost | str:
    """Return the cost, or the reason why there is none."""
    gold = getattr(task.module, "gold", None)
    if gold is None:
        return "defines no gold(problem) in task.py: nothing to verify"
    try:
        task.prepare(lambda _what, _done, _total: None)
        chosen = sampled(task.problems("train"), problems)
        answers = [gold(problem) for problem in chosen]
    except SiaError as error:
        return str(error).splitlines()[0]
    lab, walls, cpus, scores = SandboxLab(sandbox), [], [], []
    # The first round computes what is cached for each problem.
    for number in range(rounds + 1):
        if (forget := getattr(task.module, "forget", None)) is not None:
            forget()  # A cached verdict costs nothing.
        for problem, answer in zip(chosen, answers, strict=True):
            started, used = time.perf_counter(), time.process_time()
            verdict = verified(task, problem, answer, lab)
            walls.append(time.perf_counter() - started)
            cpus.append(time.process_time() - used)
            if not verdict.valid:
                return f"its gold answer is invalid on {problem.id}: {verdict.feedback[:100]}"
            scores.append(verdict.score if number else 0.0)
    later = walls[len(chosen) :]
    count, seconds = GOALS.get(task.name, (1, 0.0))
    return Cost(
        verdicts=len(later),
        first_s=max(walls[: len(chosen)]),
        next_s=statistics.median(later),
        most_s=max(later),
        cpu_s=statistics.median(cpus[len(chosen) :]),
        score=statistics.mean(scores[len(chosen) :]),
        goal_verdicts=count,
        goal_s=seconds,
    )


def show(name: str, found: Cost | str) -> None:
    """Print a line for a task."""
    if isinstance(found, str):
        print(f"{name:12} skipped: {found}")
        return
    line = f"{name:12} first {found.first_s:7.3f} s, next {found.next_s:8.4f} s (most {found.most_s:.4f}, CPU outside"
    line += f" the sandbox {found.cpu_s:.4f}), {found.verdicts} verdicts"
    if found.goal_s:
        word = "met" if found.goal_took_s <= found.goal_s else "MISSED"
        line += f"; {found.goal_verdicts} take {found.goal_took_s:.3f} s, goal {found.goal_s:g} s: {word}"
    print(line)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two problems, two rounds")
    parser.add_argument("--task", nargs="*", default=None, help="names or paths; all shipped tasks if not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args(argv)
    problems, rounds = (2, 2) if options.quick else (8, 5)
    record: dict[str, object] = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    sandbox = open_sandbox("strict")
    try:
        for name in options.task or task_names():
            found = measure(Task.load(name), sandbox, problems, rounds)
            show(name, found)
            record[name] = found if isinstance(found, str) else {**asdict(found), "goal_took_s": found.goal_took_s}
    finally:
        sandbox.close()
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        # As in rollout workers; numpy, already imported, reads it once.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    main()

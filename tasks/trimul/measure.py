"""One verification: checks at odd shapes, then timed calls, the program's and the naive loop's in turn.

One at a time on a machine, by a lock, so that neighbours of one's own making do not disturb. The loop is called
on the same data, in a sandbox of the same kind, before every call: what slows the machine slows both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from filelock import FileLock

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import LiveProgramLab
from sia_core.host.home import home
from tasks.trimul.candidate import InvalidAnswerError, Program, Runner, build, room
from tasks.trimul.compare import Error, compare
from tasks.trimul.inputs import make
from tasks.trimul.programs import NAIVE
from tasks.trimul.reference import expected
from tasks.trimul.roofline import floor_s
from tasks.trimul.settings import settings
from tasks.trimul.shapes import Call, Recipe


@dataclass(frozen=True)
class Sample:
    """One call, compared and timed."""

    call: Call
    error: Error
    seconds: float = 0.0
    naive_s: float | None = None
    """CPU seconds that the naive loop took on the same data; None where the two are not compared."""


@dataclass
class Measured:
    """Findings of a verification before it ended, by itself or by a broken rule."""

    samples: list[Sample] = field(default_factory=list)
    broken: str = ""
    """The rule that a call broke under every mode; nothing was called after it."""


def measure(program: Program, recipe: Recipe, lab: LiveProgramLab) -> Measured:
    """Run a program through a problem on the CPU. Raises SandboxError when a sandbox fails."""
    found = Measured()
    calls = list(recipe.calls())
    size = room([call.case.shape for call in (*recipe.checks(), *calls)])
    try:
        files = build(program, lab)
        with exclusive("cpu"), Runner(files, size, lab) as candidate:
            for call in recipe.checks():
                found.samples.append(_checked(call, candidate))
            with _opened_naive(size, lab) as naive:
                _timed(calls, candidate, naive, found)
    except InvalidAnswerError as broken:
        found.broken = str(broken)
    return found


def _timed(calls: list[Call], candidate: Runner, naive: Runner, found: Measured) -> None:
    for call in calls:
        reference = _naive_s(naive, call)  # Unmeasured ones too: its first calls at a shape are slower as well.
        sample = _checked(call, candidate, reference if call.timed else None)
        if call.timed and sample.seconds < floor_s(call.case.shape, "cpu"):
            raise InvalidAnswerError(
                f"roofline: {1e6 * sample.seconds:.0f} us, and no machine takes less than "
                f"{1e6 * floor_s(call.case.shape, 'cpu'):.0f} us"
            )
        found.samples.append(sample)


def _opened_naive(size: int, lab: LiveProgramLab) -> Runner:
    try:
        return Runner(build(Program(NAIVE), lab), size, lab)
    except InvalidAnswerError as failed:
        raise SandboxError(f"the naive loop cannot be run: {failed}", where="trimul verifier") from failed


def _naive_s(naive: Runner, call: Call) -> float:
    """Its CPU seconds. Where it fails, nobody is scored: it is the verifier's own."""
    try:
        return naive.call(make(call)).cpu_s
    except InvalidAnswerError as failed:
        raise SandboxError(f"the naive loop failed: {failed}", where="trimul verifier") from failed


def _checked(call: Call, candidate: Runner, naive_s: float | None = None) -> Sample:
    timed = candidate.call(make(call))
    error = compare(timed.result, expected(call), float(settings()["tolerance"]))
    if error.not_finite:
        raise InvalidAnswerError(f"{error.not_finite} entries are NaN or infinite, or were never written")
    return Sample(call, error, timed.cpu_s, naive_s)


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Hold the one place for timing on a device of this machine, among all who share this SIA_HOME."""
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"timing-{device}.lock"):
        yield


def over(
    samples: list[Sample], what: Callable[[Sample], float | None], statistic: Callable[[list[float]], Any] = np.mean
) -> float:
    """Mean, or another statistic, over the samples that have it."""
    return float(statistic([value for value in map(what, samples) if value is not None]))

"""A program in its sandbox, called with new data again and again, each call timed by its CPU clock.

What a call costs is every CPU second that the program's process takes between the moment before its data are
written and the moment after its result was copied away: whatever has to do with these data happened within,
in any thread, early or late. What it spends between two calls, when an honest program waits, is added to the
second. So nothing that the program says or does to its own clocks matters.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, LiveProgram, LiveProgramLab, ProgramEndedError, SandboxResult
from tasks.trimul.inputs import OUT, Floats, Inputs, floats, layout
from tasks.trimul.programs import DRIVER
from tasks.trimul.shapes import Shape

MAX_CODE = 100_000
"""Characters of code, and of build."""
BUILD = Limits(
    wall_s=300.0, cpu_s=300.0, memory_mb=4096, disk_mb=1024, output_kb=64, files_mb=64, subprocesses=True, native=True
)
START_S, CALL_S, SESSION_S = 60.0, 60.0, 300.0
"""Wall clock of loading a program, of one call, and of all together."""
_FRAME = 4096
_TAIL, _SAID = 6, 600
_BUILT = "built.tar"
_BUILDER = """
import os, runpy, tarfile
os.environ["PATH"] = "/usr/bin:/bin"
os.mkdir("built")
runpy.run_path("build.py", run_name="__main__")
with tarfile.open("built.tar", "w") as archive:
    archive.add("built", arcname=".")
"""


class InvalidAnswerError(Exception):
    """The candidate broke a rule; the message is its feedback."""


@dataclass(frozen=True)
class Program:
    """Sources that an answer holds."""

    code: str
    """Source of a module with `custom_kernel(data)`."""
    build: str = ""
    """Source of a program that is run once beforehand, where compilers are; it leaves files in built/."""

    def __post_init__(self) -> None:
        if not 0 < len(self.code) <= MAX_CODE or len(self.build) > MAX_CODE:
            raise InvalidAnswerError(f"code has to be 1 to {MAX_CODE} characters, build at most as many")


@dataclass(frozen=True)
class Timed:
    """One call: what it gave, and what it cost."""

    result: Floats = field(repr=False)
    cpu_s: float


def build(program: Program, lab: LiveProgramLab) -> dict[str, bytes]:
    """The files of a program: its source, and what its build left, which nobody here opens.

    Raises:
        InvalidAnswerError: the build failed.
        SandboxError: the sandbox did; nobody's score.
    """
    files = {"main.py": DRIVER, "candidate.py": program.code.encode(errors="replace")}
    if program.build:
        work = {"main.py": _BUILDER.encode(), "build.py": program.build.encode(errors="replace")}
        result = lab.run(work, BUILD, collect=[_BUILT])
        _check("build", result)
        files[_BUILT] = result.files.get(_BUILT, b"")
    return files


def _check(what: str, result: SandboxResult) -> None:
    if result.status == "infrastructure":
        raise SandboxError(result.reason, where="trimul verifier")
    if result.status != "ok":
        said = " | ".join(result.stderr.strip().splitlines()[-_TAIL:])[-_SAID:]
        raise InvalidAnswerError(f"{what} ended with status {result.status}: {said or result.reason}")


class Runner:
    """A program that is being called. Raises InvalidAnswerError for whatever it does wrong."""

    def __init__(self, files: Mapping[str, bytes], room: int, lab: LiveProgramLab) -> None:
        # `room`: floats of the largest call.
        memory = 4 * room
        roomy = 2048 + 16 * (memory >> 20)
        limits = Limits(
            wall_s=SESSION_S, cpu_s=SESSION_S, memory_mb=roomy, disk_mb=256, output_kb=16, native=_BUILT in files
        )
        self._session: LiveProgram = lab.open(files, limits, memory_bytes=memory, modules=("torch",))
        self._spent: float | None = None
        self._cells: Floats = np.frombuffer(self._session.memory, dtype=np.float32)
        try:
            self._hear("loading", START_S)
        except BaseException:
            self.close()
            raise

    def call(self, inputs: Inputs, timeout_s: float = CALL_S) -> Timed:
        """Call the program once."""
        where = layout(inputs.shape)
        request = json.dumps({"arrays": where}).encode()
        started = self._clock() if self._spent is None else self._spent
        for name, array in inputs.arrays.items():
            self._part(where[name])[:] = array.ravel()
        out = self._part(where[OUT])
        out.fill(np.nan)  # what the program does not write is no result
        try:
            self._session.send(request)
        except ProgramEndedError as end:
            raise _broken("the call", end) from None
        self._hear("the call", timeout_s)
        result = out.copy()
        self._spent = self._clock()
        for name, array in inputs.arrays.items():
            if not np.array_equal(self._part(where[name]).view(np.uint32), array.ravel().view(np.uint32)):
                raise InvalidAnswerError(f"the program changed its input {name}")
        return Timed(result.reshape(where[OUT][1]), self._spent - started)

    def close(self) -> None:
        """End the program."""
        self._cells = np.empty(0, np.float32)
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _part(self, where: tuple[int, tuple[int, ...]]) -> Floats:
        start, shape = where
        return self._cells[start : start + math.prod(shape)]

    def _clock(self) -> float:
        try:
            return self._session.cpu_s()
        except ProgramEndedError as end:
            raise _broken("the program", end) from None

    def _hear(self, what: str, timeout_s: float) -> None:
        try:
            said = self._session.recv(_FRAME, timeout_s)
        except ProgramEndedError as end:
            raise _broken(what, end) from None
        if said:
            raise InvalidAnswerError(said.decode(errors="replace"))


def _broken(what: str, end: ProgramEndedError) -> InvalidAnswerError:
    return InvalidAnswerError(f"{what} ended with status {end.status}: {end.reason}")


def room(shapes: list[Shape]) -> int:
    """Floats of the largest call."""
    return max(map(floats, shapes))

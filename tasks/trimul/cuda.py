"""Verify a program on a GPU as measure.py does on the CPU. Written for CUDA and never run: no GPU was at hand.

Seed, reference, comparison and clock stay in this process, which has a context of its own on the device. The
candidate's process maps one buffer of it (CUDA IPC; the handle is a few bytes of JSON). For every call this process
copies new inputs into the buffer, fills the result with NaN and flushes the L2 cache; says "go"; hears "done", which
the driver says after a synchronisation of the whole device; and copies the result away. Three spans are measured:

    preparing | the call | taking away

The call is taken from the device events that the driver records around it, if they agree with this process's clock
within the spread of empty calls; else from this clock. Work on these inputs that is hidden in the other
spans - a stream that runs on, a thread that begins early - slows them, since contexts share the device in turns: what
they take beyond the longest of their own trial runs is added to the call.

The sandbox tiers that confine show no GPU to programs. This runs in the tier `none` only, inside a container or
a machine of its own; there, results are tagged and never promoted.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, LiveProgramLab, ProgramEndedError
from tasks.trimul.candidate import CALL_S, START_S, InvalidAnswerError, Program, build, room
from tasks.trimul.compare import Error, compare
from tasks.trimul.inputs import MASK, OUT, Inputs, X, layout, make
from tasks.trimul.measure import Measured, Sample, exclusive
from tasks.trimul.roofline import floor_s
from tasks.trimul.settings import settings
from tasks.trimul.shapes import Call, Recipe, Shape

_TRIALS = 20
_FRAME = 4096
_FLUSH_BYTES = 512 << 20
"""Several times any L2 cache."""
_LIMITS = Limits(wall_s=600.0, cpu_s=600.0, memory_mb=1 << 20, disk_mb=1024, output_kb=16, native=True)


@cache
def _torch() -> Any:
    import torch  # heavy, and not needed for the CPU

    return torch


def measure(program: Program, recipe: Recipe, lab: LiveProgramLab) -> Measured:
    """Run a program through a problem. Raises SandboxError where no GPU can be used."""
    found = Measured()
    calls = [*recipe.checks(), *recipe.calls()]
    if not _torch().cuda.is_available():
        raise SandboxError("no CUDA device is seen", where="trimul, device cuda", hint="unset SIA_TRIMUL_DEVICE")
    identity = str(_torch().cuda.get_device_properties(0).uuid)
    try:
        files = {**build(program, lab), "driver.py": _text("driver.py"), "main.py": _text("driver_cuda.py")}
        with (
            exclusive(f"cuda-{identity}"),
            DeviceRunner(files, room([call.case.shape for call in calls]), lab) as runner,
        ):
            for call in calls:
                found.samples.append(_sample(call, runner))
    except InvalidAnswerError as broken:
        found.broken = str(broken)
    return found


def _sample(call: Call, runner: "DeviceRunner") -> Sample:
    inputs = make(call)
    error, seconds = runner.call(inputs)
    if error.not_finite:
        raise InvalidAnswerError(f"{error.not_finite} entries are NaN or infinite, or were never written")
    floor = floor_s(call.case.shape, "cuda")
    if call.timed and seconds < floor:
        raise InvalidAnswerError(
            f"roofline: {1e6 * seconds:.0f} us, and no device takes less than {1e6 * floor:.0f} us"
        )
    return Sample(call, error, seconds)


@dataclass(frozen=True)
class Spans:
    """Seconds by this process's clock, and what the driver's device events say."""

    preparing: float
    call: float
    taking: float
    events: float

    def charged(self, trial: "Spans", empty: "Empty") -> float:
        """Return the seconds that the call is charged."""
        hidden = max(0.0, self.preparing - trial.preparing) + max(0.0, self.taking - trial.taking)
        wall = max(0.0, self.call - empty.median)
        believed = self.events if abs(wall - self.events) <= empty.spread + 0.02 * wall else wall
        return max(believed, 0.0) + hidden


@dataclass(frozen=True)
class Empty:
    """Calls that do nothing: what a round trip to the driver takes."""

    median: float
    spread: float

    @classmethod
    def of(cls, seconds: list[float]) -> Self:
        """Summarise the seconds of several empty calls."""
        return cls(float(np.median(seconds)), float(np.max(seconds) - np.min(seconds)))


class DeviceRunner:
    """A program that is being called on the device. Raises InvalidAnswerError for whatever it does wrong."""

    def __init__(self, files: Mapping[str, bytes], room: int, lab: LiveProgramLab) -> None:
        torch = _torch()
        torch.backends.cuda.matmul.allow_tf32 = False
        self._cells = torch.empty(room, dtype=torch.float32, device="cuda")
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self._trials: dict[Shape, Spans] = {}
        self._session = lab.open(files, _LIMITS, memory_bytes=0)
        try:
            self._map()
            self._hear("loading", START_S)
            self._empty = Empty.of([self._ask({"empty": True})[0] for _ in range(_TRIALS)])
        except BaseException:
            self.close()
            raise

    def call(self, inputs: Inputs) -> tuple[Error, float]:
        """Call the program once: how far off it was, and seconds."""
        torch = _torch()
        staged = {name: torch.from_numpy(array).cuda() for name, array in inputs.arrays.items()}
        if inputs.shape not in self._trials:
            self._trials[inputs.shape] = self._trial(staged, inputs.shape)
        spans, result = self._spans(staged, inputs.shape, run=True)
        for name, array in staged.items():
            if not torch.equal(self._part(inputs.shape, name).view(torch.int32), array.view(torch.int32)):
                raise InvalidAnswerError(f"the program changed its input {name}")
        seconds = spans.charged(self._trials[inputs.shape], self._empty)
        wanted = reference(staged).cpu().numpy()
        return compare(result.cpu().numpy(), wanted, float(settings()["tolerance"])), seconds

    def close(self) -> None:
        """End the program."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _trial(self, staged: dict[str, Any], shape: Shape) -> Spans:
        """The longest spans of several that do not call the program."""
        runs = [self._spans(staged, shape, run=False)[0] for _ in range(_TRIALS)]
        return Spans(max(run.preparing for run in runs), 0.0, max(run.taking for run in runs), 0.0)

    def _spans(self, staged: dict[str, Any], shape: Shape, *, run: bool) -> tuple[Spans, Any]:
        torch = _torch()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for name, array in staged.items():
            self._part(shape, name).copy_(array)
        self._part(shape, OUT).fill_(math.nan)
        self._flush.zero_()
        torch.cuda.synchronize()
        ready = time.perf_counter()
        call_s, events = self._ask({"arrays": layout(shape)}) if run else (0.0, 0.0)
        done = time.perf_counter()
        result = self._part(shape, OUT).clone()
        torch.cuda.synchronize()
        return Spans(ready - began, call_s, time.perf_counter() - done, events), result

    def _part(self, shape: Shape, name: str) -> Any:
        start, size = layout(shape)[name]
        return self._cells[start : start + math.prod(size)].view(size)

    def _map(self) -> None:
        """Hand over the buffer. What goes wrong here happens before any of the candidate's code."""
        parts = self._cells.untyped_storage()._share_cuda_()
        told = [part.hex() if isinstance(part, bytes) else part for part in parts]
        try:
            self._session.send(json.dumps(told).encode())
            said = self._session.recv(_FRAME, START_S)
        except ProgramEndedError as end:
            said = end.reason.encode()
        if said:
            raise SandboxError(
                f"programs cannot use the GPU: {said.decode(errors='replace')}",
                where="trimul, device cuda",
                hint="confining sandboxes show none: use --sandbox none in a container or on a machine of its own",
            )

    def _ask(self, request: dict[str, Any]) -> tuple[float, float]:
        """Send one request; seconds until it was done, and by the driver's events."""
        began = time.perf_counter()
        self._session.send(json.dumps(request).encode())
        said = self._answer("the call", CALL_S)
        seconds = time.perf_counter() - began
        if not said.startswith("us "):
            raise InvalidAnswerError(said or "the program ended the call by itself")
        try:
            events = float(said[3:]) / 1e6
        except ValueError:
            events = math.nan
        return seconds, events if 0.0 <= events < math.inf else 0.0

    def _hear(self, what: str, timeout_s: float) -> None:
        said = self._answer(what, timeout_s)
        if said:
            raise InvalidAnswerError(said)

    def _answer(self, what: str, timeout_s: float) -> str:
        try:
            return self._session.recv(_FRAME, timeout_s).decode(errors="replace")
        except ProgramEndedError as end:
            raise InvalidAnswerError(f"{what} ended with status {end.status}: {end.reason}") from None


def reference(arrays: dict[str, Any]) -> Any:
    """The formula in float64 on the device; see reference.py."""
    torch = _torch()
    w = {name: array.double() for name, array in arrays.items()}
    norm = torch.nn.functional.layer_norm
    x = norm(w[X], w[X].shape[-1:], w["norm.weight"], w["norm.bias"])
    mask = w[MASK].unsqueeze(-1)

    def side(name: str) -> Any:
        gate = torch.sigmoid(x @ w[f"{name}_gate.weight"].T)
        return (x @ w[f"{name}_proj.weight"].T * gate * mask).permute(0, 3, 1, 2)

    o = torch.matmul(side("left"), side("right").transpose(-1, -2)).permute(0, 2, 3, 1)
    o = norm(o, o.shape[-1:], w["to_out_norm.weight"], w["to_out_norm.bias"])
    return (o * torch.sigmoid(x @ w["out_gate.weight"].T)) @ w["to_out.weight"].T


def _text(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()

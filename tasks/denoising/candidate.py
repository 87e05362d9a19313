"""Runs a candidate's `denoise(X)` in the sandbox and reads back its matrix as untrusted bytes.

The program sees train counts only. What it leaves is a .npy file whose header is matched whole against the one
form that numpy writes for a float64 matrix: nothing is evaluated, unpickled or allocated by its say.
"""

import re

import numpy as np

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Lab, Limits, SandboxResult
from tasks.denoising.metrics import Matrix
from tasks.denoising.problems import TRAIN_FILE

MAX_CODE = 100_000
"""Characters of one answer."""
LIMITS = Limits(wall_s=30.0, cpu_s=20.0, memory_mb=1024, disk_mb=64, output_kb=16, files_mb=16)
OUT_FILE = "out.npy"
_ERROR_CHARS = 300

DRIVER = b"""
import numpy as np
X = np.load("X_train.npy", allow_pickle=False).astype(np.float64)
space = {"__name__": "candidate"}
with open("candidate.py", encoding="utf-8") as file:
    exec(compile(file.read(), "candidate.py", "exec"), space)
out = space["denoise"](X)
out = out.toarray() if hasattr(out, "toarray") else out
np.save("out.npy", np.asarray(out, dtype=np.float64), allow_pickle=False)
"""

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '<f8', 'fortran_order': (True|False), 'shape': \(([0-9]{1,9}), ([0-9]{1,9})\), \} *\n"
)


class InvalidAnswerError(Exception):
    """The candidate broke a rule; the message is its feedback."""


def run_candidate(code: str, train: bytes, shape: tuple[int, int], lab: Lab) -> Matrix:
    """The matrix that `code` makes of one part's train counts, given as a .npy file.

    Raises:
        InvalidAnswerError: it failed, or left anything but a finite, non-negative matrix of the right shape.
        SandboxError: the sandbox failed; nobody's score.
    """
    program = {"main.py": DRIVER, "candidate.py": code.encode(errors="replace"), TRAIN_FILE: train}
    result = lab.run(program, LIMITS, collect=[OUT_FILE])
    _check_status(result)
    if OUT_FILE not in result.files:
        raise InvalidAnswerError("the program left no matrix: denoise(X) has to return one")
    matrix = parse_matrix(result.files[OUT_FILE], shape)
    _check_values(matrix)
    return matrix


def _check_status(result: SandboxResult) -> None:
    if result.status == "infrastructure":
        raise SandboxError(result.reason, where="denoising verifier")
    if result.status != "ok":
        said = (result.stderr.strip().splitlines() or [""])[-1][:_ERROR_CHARS]
        raise InvalidAnswerError(f"the program ended with status {result.status}: {said or result.reason}")


def parse_matrix(data: bytes, shape: tuple[int, int]) -> Matrix:
    """A float64 matrix of exactly `shape` out of the bytes of a .npy file.

    Raises:
        InvalidAnswerError: any other bytes.
    """
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data[start:end]) if data.startswith(_MAGIC) else None
    if header is None:
        raise InvalidAnswerError("the result is not a two-dimensional array of floats")
    found = (int(header[2]), int(header[3]))
    if found != shape:
        raise InvalidAnswerError(f"the result has shape {found[0]} x {found[1]}, not {shape[0]} x {shape[1]}")
    if len(data) - end != 8 * shape[0] * shape[1]:
        raise InvalidAnswerError("the result's file does not have the size its header says")
    order = "F" if header[1] == b"True" else "C"
    matrix: Matrix = np.frombuffer(data, dtype="<f8", offset=end).reshape(shape, order=order)  # type: ignore[call-overload]
    return matrix


def _check_values(matrix: Matrix) -> None:
    bad = int(matrix.size - np.count_nonzero(np.isfinite(matrix)))
    if bad:
        raise InvalidAnswerError(f"{bad} entries are NaN or infinite")
    negative = int(np.count_nonzero(matrix < 0))
    if negative:
        raise InvalidAnswerError(f"{negative} entries are negative, the least {matrix.min():.3g}")

"""Labs for tests, which run the tests' own programs in this process or return given results."""

import contextlib
import io
import itertools
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sia_core.domain.lab import Limits, SandboxResult, SandboxStatus


class InProcessLab:
    """Runs programs by exec in a temporary directory; they are the tests' own."""

    def __init__(self) -> None:
        self.seen: list[dict[str, bytes]] = []

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Implement `Lab.run` without confinement or limits."""
        self.seen.append(dict(files))
        said, status, error = io.StringIO(), "ok", ""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(said):
            for name, data in files.items():
                Path(name).write_bytes(data)
            try:
                exec(compile(files[entry], entry, "exec"), {"__name__": "__main__"})  # noqa: S102
            except Exception:  # noqa: BLE001 - whatever a test's program raises
                status, error = "error", traceback.format_exc()
            found = {name: Path(name).read_bytes() for name in collect if Path(name).exists()}
        return SandboxResult(_status(status), stdout=said.getvalue(), stderr=error, files=found)


def _status(name: str) -> SandboxStatus:
    return "ok" if name == "ok" else "error"


class CannedLab:
    """Returns the same result for every program."""

    def __init__(self, result: SandboxResult) -> None:
        self._result = result

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """The result."""
        return self._result


class Answers:
    """Returns the next matrix for every program, and starts over after the last matrix."""

    def __init__(self, matrices: Sequence[Any]) -> None:
        self._next = itertools.cycle([_npy(matrix) for matrix in matrices])

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """The next matrix."""
        return SandboxResult("ok", files={"out.npy": next(self._next)})


def _npy(matrix: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(matrix, dtype=np.float64), allow_pickle=False)
    return buffer.getvalue()

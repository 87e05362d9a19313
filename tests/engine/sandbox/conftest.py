"""A strict sandbox for each test module, and small helpers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.engine.sandbox.bare import Bare
from sia_core.engine.sandbox.bubblewrap import StrictSandbox
from sia_core.engine.sandbox.forked import ForkedSandbox
from sia_core.engine.sandbox.landlock import LandlockSandbox

Run = Callable[..., SandboxResult]
Make = Callable[[], ForkedSandbox]


@pytest.fixture(scope="module")
def sandbox(bwrap: str) -> Iterator[StrictSandbox]:
    made = StrictSandbox(modules=("numpy",), bwrap=bwrap)
    yield made
    made.close()


@pytest.fixture
def run(sandbox: StrictSandbox) -> Run:
    """Run a source text, by default under small limits."""

    def go(source: str, *, collect: Sequence[str] = (), **limits: float) -> SandboxResult:
        ceilings = Limits(**{"wall_s": 20, "memory_mb": 256, "disk_mb": 4, **limits})  # type: ignore[arg-type]
        return sandbox.run({"main.py": source.encode()}, ceilings, collect=collect)

    return go


def open_interpreter() -> bool:
    """True if programs of the tier `landlock` can read the interpreter of this test."""
    try:
        return bool(Bare(None).settings())
    except SandboxError:
        return False


@pytest.fixture(params=["strict", "landlock"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """A sandbox of each tier that forks, closed at the end."""
    made: list[ForkedSandbox] = []

    def one() -> ForkedSandbox:
        if request.param == "strict":
            made.append(StrictSandbox(modules=(), bwrap=request.getfixturevalue("bwrap")))
        elif open_interpreter():
            made.append(LandlockSandbox(modules=()))
        else:
            pytest.skip("no Landlock for this interpreter; test_landlock runs these tests with another")
        return made[-1]

    yield one
    for sandbox in made:
        sandbox.close()


def as_nobody() -> list[str]:
    """Start of a command that runs as an unprivileged user; skips where this is impossible."""
    found = shutil.which("setpriv")
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root and setpriv to become another user")
    return [found, "--reuid=65534", "--regid=65534", "--clear-groups"]


def system_python() -> str:
    """The system's interpreter, since another user may not reach the interpreter of the test."""
    python = "/usr/bin/python3"
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if not Path(python).exists() or subprocess.run([python, "-c", version], check=False).returncode:
        pytest.skip("needs a system interpreter of the same version")
    return python

"""One strict sandbox for each test module, and small helpers around it."""

import shutil
from collections.abc import Callable, Iterator, Sequence

import pytest

from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.sandbox.strict import StrictSandbox
from sia_core.errors import SandboxError
from sia_core.lab import Limits, SandboxResult

Run = Callable[..., SandboxResult]


@pytest.fixture(scope="session")
def bwrap() -> str:
    try:
        return find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sandbox(bwrap: str) -> Iterator[StrictSandbox]:
    made = StrictSandbox(modules=("numpy",), bwrap=bwrap)
    yield made
    made.close()


@pytest.fixture
def run(sandbox: StrictSandbox) -> Run:
    """Run one source text, by default under small limits."""

    def go(source: str, *, collect: Sequence[str] = (), **limits: float) -> SandboxResult:
        ceilings = Limits(**{"wall_s": 20, "memory_mb": 256, "disk_mb": 4, **limits})  # type: ignore[arg-type]
        return sandbox.run({"main.py": source.encode()}, ceilings, collect=collect)

    return go


@pytest.fixture(scope="session")
def setpriv() -> str:
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("no setpriv to become another user with")
    return found

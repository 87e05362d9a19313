"""A lab in the strict sandbox, for fixtures."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.worker import SandboxLab


@contextmanager
def strict_lab() -> Iterator[SandboxLab]:
    """Open a lab; skip the test where there is no strict sandbox."""
    try:
        sandbox = open_sandbox("strict")
    except SandboxError as error:
        pytest.skip(f"no strict sandbox here: {error.what}")
    with closing(sandbox), closing(SandboxLab(sandbox)) as lab:
        yield lab

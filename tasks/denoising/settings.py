"""The pinned parameters of task.toml, as the helper modules read them."""

import tomllib
from functools import cache
from pathlib import Path


@cache
def data_settings() -> dict[str, str]:
    """The `[data]` table: digests and parameters, all of them part of the task's digest."""
    table: dict[str, str] = tomllib.loads((Path(__file__).parent / "task.toml").read_text())["data"]
    return table

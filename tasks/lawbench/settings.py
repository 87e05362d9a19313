"""The pinned parameters of task.toml, as the helper modules read them, and the track in use."""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from sia_core.domain.errors import UsageError

Track = Literal["llm", "open"]
"""`llm`: the answer is text that the policy sampled. `open`: anything goes."""
TRACK = "SIA_LAWBENCH_TRACK"


@cache
def data_settings() -> dict[str, str]:
    """The `[data]` table: digests and parameters, all of them part of the task's digest."""
    table: dict[str, str] = tomllib.loads((Path(__file__).parent / "task.toml").read_text())["data"]
    return table


def track() -> Track:
    """The track of this process: the environment's word, else task.toml's.

    Raises:
        UsageError: there is no such track.
    """
    asked = os.environ.get(TRACK, "").strip() or data_settings()["track"]
    for known in get_args(Track):
        if asked == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(
        f"{asked!r} is no track of lawbench", where=TRACK, hint=f"use one of: {', '.join(get_args(Track))}"
    )

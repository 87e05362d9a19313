"""Read the trace that a harness reports, of bounded size, about its own files and knobs only.

The harness may report anything. The trace only helps to recognise no-ops, so a false report costs its harness a trial
at the gate, and gains nothing.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.domain.harness import MAX_BYTES, MAX_FILES, Harness
from sia_core.domain.invalid import in_words
from sia_core.domain.rollout import Trace
from sia_core.engine.budget import RefusedError


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    lines: dict[str, list[int]] = Field(max_length=MAX_FILES)
    knobs: list[str] = Field(max_length=1024)


def read_trace(body: Any, harness: Harness) -> Trace:
    """Return the reported trace without other files, lines beyond any file's end, and unknown knobs.

    Raises:
        RefusedError: not of the shape {"lines": {file: [number]}, "knobs": [name]}.
    """
    try:
        said = _Said.model_validate(body)
    except ValidationError as error:
        raise RefusedError("request", in_words(error, _Said)) from error
    lines = {
        name: tuple(sorted({number for number in numbers if 0 < number <= MAX_BYTES}))
        for name, numbers in sorted(said.lines.items())
        if name in harness.files
    }
    return Trace(lines, tuple(sorted(set(said.knobs) & harness.knobs.keys())))

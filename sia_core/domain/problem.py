"""Define a problem: one question of a task, with a public part and a private part."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sia_core.domain.rollout import Split


@dataclass(frozen=True)
class Problem:
    """A problem; the harness sees `public` and may give `files` to programs that it runs."""

    id: str
    split: Split
    public: Mapping[str, Any] = field(default_factory=dict)
    """JSON data that the harness sees."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Public inputs too large for JSON, by file name."""
    private: Any = field(default=None, repr=False)

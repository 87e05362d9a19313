"""Recorded decisions for tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.agents.recording import Recording, write_recording
from sia_core.domain.harness import Harness

TOML = b'name = "h"\n[knobs.tries]\nvalue = 1\nrange = [1, 4]\n'
FIRST = Harness.from_files({"harness.toml": TOML, "agent.py": b"X = 1\n"})


def entry(generation: int, sibling: int = 0, *, parent: tuple[int, int] = (0, 0), **given: Any) -> dict[str, Any]:
    """A decision as the file holds it. Its edit is a new agent.py unless other edits are given."""
    edits = [{"file": "agent.py", "text": f"X = {generation + 1}\n"}]
    return {
        "generation": generation,
        "sibling": sibling,
        "lever": "harness",
        "parent": {"generation": parent[0], "sibling": parent[1]},
        "reason": f"why {generation}",
        **({"edits": edits} if given.get("lever", "harness") in ("harness", "both", "none") else {}),
        **given,
    }


def content(*entries: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """A whole file, as data."""
    return {
        "format": "sia-decisions/1",
        "run": "toy-abcdef",
        "task": {"name": "toy", "digest": "d" * 64},
        "policy": "scripted",
        "seed": 7,
        "generations": max((one["generation"] for one in entries), default=0),
        "siblings": max((one["sibling"] for one in entries), default=0) + 1,
        "agent": "a language model",
        "made": "2026-11-30",
        "sia": "0.1.0",
        "first": {"harness": FIRST.digest},
        "decisions": list(entries),
        **given,
    }


def recording(*entries: Mapping[str, Any], **given: Any) -> Recording:
    """A checked recording."""
    return Recording.model_validate_json(json.dumps(content(*entries, **given)))


def put(path: Path, *entries: Mapping[str, Any], **given: Any) -> Path:
    """Write a file of recorded decisions."""
    path.write_bytes(write_recording(recording(*entries, **given)))
    return path

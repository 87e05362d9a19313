"""Detect canaries: random strings that a task puts into its private data and that must appear nowhere else.

A canary in a harness, a prompt, an answer, a note or a decision proves a leak of private data and ends the run, whose
results can no longer be distinguished from copying. Encoded, translated or split text goes unnoticed. The error names
the place and never holds the string.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sia_core.domain.errors import LeakError
from sia_core.domain.json_data import texts
from sia_core.domain.rollout import Rollout

_SHAPE = re.compile(r"[A-Za-z0-9_-]{16,128}")


class Canaries:
    """Search of texts for any of a set of strings, in one pass."""

    def __init__(self, strings: Iterable[str] = ()) -> None:
        """Raise ValueError for a string that could occur by chance or be written in several ways."""
        found = sorted(set(strings))
        if not all(map(_SHAPE.fullmatch, found)):
            raise ValueError("a canary is 16 to 128 random letters, digits, - or _")
        self.count = len(found)
        self._search = re.compile("|".join(map(re.escape, found))).search if found else None

    def check(self, text: str, where: str) -> None:
        """Raise LeakError if one of the strings is in the text."""
        if self._search is not None and self._search(text) is not None:
            raise LeakError(
                "a canary of the task's private data was seen here",
                where=where,
                hint="find and fix the leak, then start a new run; this one cannot be trusted",
            )

    def check_data(self, value: Any, where: str) -> None:
        """Check every text in JSON data, names included; raise LeakError as `check` does."""
        for text in texts(value) if self._search is not None else ():
            self.check(text, where)

    def check_files(self, files: Mapping[str, bytes], where: str) -> None:
        """Check files, their names included; raise LeakError as `check` does."""
        for name, data in files.items():
            self.check(name, f"{where}, a file's name")
            self.check(data.decode(errors="replace"), f"{where}, file {name}")

    def check_rollout(self, rollout: Rollout) -> None:
        """Check a rollout: prompts, outputs, tool calls, answer, notes, feedback and failure reason.

        Raises:
            LeakError: a text holds a canary.
        """
        where = f"rollout {rollout.unit.key[:12]} of problem {rollout.unit.problem}"
        for number, turn in enumerate(rollout.turns, 1):
            self.check(turn.prompt, f"{where}, prompt of turn {number}")
            calls = [text for call in turn.tool_calls for text in (call.name, call.arguments)]
            self.check_data([turn.output, *calls], f"{where}, output of turn {number}")
        self.check_data(rollout.answer, f"{where}, answer")
        self.check_data(list(rollout.notes), f"{where}, notes")
        if rollout.verdict is not None:
            self.check(rollout.verdict.feedback, f"{where}, the verifier's feedback")
        if rollout.failure is not None:
            self.check(rollout.failure.reason, f"{where}, reason of its failure")

"""Requests of a running command to play a draft: files that `try_harness` writes, answered one at a time.

A request is a small JSON file that names a directory and how to play it. Requests are read through an open descriptor
of their directory; the command cannot write to the answers. Number and size of requests are bounded.
"""

import json
import os
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from pydantic import Field, ValidationError

from sia_core.agents.command.desk import REQUESTS, Desk, parse_object
from sia_core.agents.library import ReadingError
from sia_core.agents.tools import Arguments
from sia_core.agents.trial import Trial, describe_trial
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.invalid import in_words
from sia_core.host.untrusted import UntrustedError, open_folder, read_regular

MAX_REQUESTS = 200
"""Maximum requests of one decision."""
_NAME = re.compile(r"[0-9a-f]{32}\.json")
_BYTES, _LOOKED_AT = 64 * 1024, 1000


class TryRequest(Arguments):
    """One request of try_harness."""

    folder: str = Field("harness", max_length=400)
    problems: list[str] = Field([], max_length=64)
    rollouts: int = Field(1, ge=1, le=16)
    parent: int | None = None


Play = Callable[[Harness, TryRequest], Trial]
"""Function that plays a draft, or raises ReadingError or HarnessError."""


class Mailbox:
    """Requests and answers of one round."""

    def __init__(self, desk: Desk, play: Play, count: int) -> None:
        """Open the box; `count` requests of this decision were answered before."""
        self._desk, self._play = desk, play
        self._requests = open_folder(desk.work / REQUESTS)
        self._seen: set[str] = set()
        self.count = count

    def close(self) -> None:
        """Stop answering requests."""
        os.close(self._requests)

    def serve(self) -> None:
        """Answer the new requests."""
        for name in self._names():
            if name not in self._seen:
                self._seen.add(name)
                self._reply(name, *self._answer(name))

    def _names(self) -> list[str]:
        with os.scandir(self._requests) as entries:
            names = [entry.name for entry in islice(entries, _LOOKED_AT)]
        return sorted(name for name in names if _NAME.fullmatch(name))

    def _answer(self, name: str) -> tuple[bool, str]:
        """Play the draft of one request; return True if it was played, and the answer for the command."""
        self.count += 1
        if self.count > MAX_REQUESTS:
            return False, f"{MAX_REQUESTS} drafts were asked for: hand in what you have"
        try:
            data = read_regular(self._requests, name, _BYTES)
            request = TryRequest.model_validate(parse_object(data or b"", "the request"))
            files = self._desk.harness(request.folder)
            trial = self._play(Harness.from_files(files, where=request.folder), request)
        except ValidationError as error:
            return False, f"error: {in_words(error, TryRequest)}"
        except (UntrustedError, ReadingError, HarnessError) as error:
            return False, f"error: {error}"
        return not trial.faults, describe_trial(trial)

    def _reply(self, name: str, played: bool, text: str) -> None:
        answer: dict[str, Any] = {"played": played, "text": text}
        part = self._desk.replies / f".{name}"
        part.write_text(json.dumps(answer))
        part.chmod(0o644)
        part.rename(self._desk.replies / name)

"""The deviations of one server from the API that it speaks, learnt from its refusals and replies.

A parameter that a server refuses is left out or renamed from then on. The change is said once in words, and kept in the
run's record, because a parameter that is not sent may change the samples.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

Choices = Literal["", "schema", "numbers"]
"""Way to choose among options: by a JSON schema, by numbers in the text, or not known yet."""
THINKING: Final = 4096
"""Tokens that a model that thinks may spend before a choice."""
_LEFT_OUT: Final = {
    "seed": "equal requests may get different replies, and only logged replies are repeated",
    "temperature": "replies are sampled at the server's own temperature instead of the requested one",
    "cache_control": "the provider's cache is not used, so long prompts may cost more",
}
"""Consequence of each parameter that can be left out."""


@dataclass(frozen=True)
class Dialect:
    """Deviations of a server; the default is a server that takes everything."""

    left_out: tuple[str, ...] = ()
    """Parameters that are not sent, in the order in which the server refused them."""
    limit: str = ""
    """Name under which the token limit is sent, if not the usual one."""
    choices: Choices = ""
    thinks: bool = False
    """True if the model thinks before it replies, so that a choice needs room for its thinking."""

    def sentences(self) -> list[str]:
        """Describe each deviation, one sentence each."""
        said = [f"takes no {name}, so none is sent: {_LEFT_OUT[name]}" for name in self.left_out]
        if self.limit:
            said.append(f"takes the token limit as {self.limit}")
        if self.choices == "numbers":
            said.append("enforces no JSON schema, so the options of a choice are numbered in its text")
        if self.thinks:
            said.append(f"thinks before a choice, which has room for {THINKING:,} more tokens")
        return said


OnLearnt = Callable[[Dialect, str], None]
"""Receives the dialect after a change, and the sentence that describes the change."""


class Learner:
    """Holds the dialect of one server. Thread-safe."""

    def __init__(self, known: Dialect | None = None, learnt: OnLearnt | None = None) -> None:
        """Begin with a dialect that an earlier process learnt; `learnt` receives each later change once."""
        self.dialect = known or Dialect()
        self._learnt = learnt
        self._lock = threading.Lock()

    def learn(self, **changes: Any) -> None:
        """Change fields of the dialect."""
        with self._lock:
            self._set(replace(self.dialect, **changes))

    def leave_out(self, name: str) -> None:
        """Note that a parameter is refused."""
        with self._lock:
            if name not in self.dialect.left_out:
                self._set(replace(self.dialect, left_out=(*self.dialect.left_out, name)))

    def _set(self, after: Dialect) -> None:
        before = set(self.dialect.sentences())
        self.dialect = after
        if self._learnt is not None:
            for sentence in after.sentences():
                if sentence not in before:
                    self._learnt(after, sentence)

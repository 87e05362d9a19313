"""Select the readable parts of a rollout: prompts and outputs, turn by turn, then answer, verdict and notes.

Every text is cut to a limit before any further work, so that a very long line costs no more than any other.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sia_core.agents.quote import elide
from sia_core.agents.transcript import outcome, short
from sia_core.domain.rollout import Rollout, Turn

TEXT = 4000
"""Characters shown of one part."""
TURNS = 16
"""Most turns shown; of a longer rollout the first and the last half of that number."""
NOTES = 6
_SHARED = 400
"""Fewest repeated characters of the previous prompt that are left out."""


@dataclass(frozen=True)
class TurnView:
    """A turn of the rollout."""

    number: int
    about: str
    repeated: int
    """Characters repeated from the previous prompt, which are left out."""
    asked: str
    options: tuple[str, ...]
    said: str
    calls: tuple[tuple[str, str], ...]
    """Name and arguments of each tool call."""


@dataclass(frozen=True)
class View:
    """The parts of a rollout that are shown."""

    key: str
    problem: str
    seed: int
    outcome: str
    score: float | None
    tokens: int
    seconds: float
    turns: tuple[TurnView, ...]
    left_out: int
    """Turns left out in the middle."""
    answer: tuple[tuple[str, str], ...]
    """Parts of the answer by name; a single part without name if it is not a mapping."""
    feedback: str
    metrics: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]


def view(rollout: Rollout) -> View:
    """Select the parts of a rollout to show."""
    shown = list(_turns(rollout))
    left_out = max(len(shown) - TURNS, 0)
    if left_out:
        shown = shown[: TURNS // 2] + shown[-TURNS // 2 :]
    verdict = rollout.verdict
    return View(
        key=rollout.unit.key,
        problem=elide(rollout.unit.problem, 200),
        seed=rollout.unit.seed,
        outcome=elide(outcome(rollout), 600),
        score=rollout.score,
        tokens=rollout.tokens,
        seconds=rollout.seconds,
        turns=tuple(shown),
        left_out=left_out,
        answer=tuple(_answer(rollout.answer)),
        feedback=elide(verdict.feedback, TEXT) if verdict else "",
        metrics=tuple(sorted(verdict.metrics.items())[:40]) if verdict else (),
        notes=tuple(elide(note, TEXT // 2) for note in rollout.notes[:NOTES]),
    )


def _turns(rollout: Rollout) -> Iterator[TurnView]:
    before = ""
    for number, turn in enumerate(rollout.turns, 1):
        repeated = _repeated(before, turn.prompt)
        yield TurnView(
            number,
            _about(turn),
            repeated,
            elide(turn.prompt[repeated:], TEXT),
            tuple(elide(option, 200) for option in (turn.options or ())[:50]),
            elide(turn.output, TEXT),
            tuple((elide(call.name, 100), elide(call.arguments, TEXT)) for call in turn.tool_calls[:20]),
        )
        before = turn.prompt


def _about(turn: Turn) -> str:
    adapter = f", adapter {short(turn.adapter)}" if turn.adapter else ""
    kept = ", ids recorded" if turn.prompt_ids is not None else ""
    return f"{turn.kind}, {turn.tokens} tokens, {turn.latency_s:.2f} s, finish {elide(turn.finish, 40)}{kept}{adapter}"


def _repeated(before: str, prompt: str) -> int:
    """Return the length of the repeated start of a prompt, up to a start of a line; 0 if it is short."""
    low, high = 0, min(len(before), len(prompt))
    while low < high:  # Bisect: comparing slices is quick, comparing characters is not.
        middle = (low + high + 1) // 2
        if before[:middle] == prompt[:middle]:
            low = middle
        else:
            high = middle - 1
    start = prompt.rfind("\n", 0, low) + 1
    return start if start > _SHARED else 0


def _answer(answer: Any) -> Iterator[tuple[str, str]]:
    if isinstance(answer, Mapping):
        for name, value in list(answer.items())[:20]:
            yield elide(str(name), 100), _readable(value)
    else:
        yield "", _readable(answer)


def _readable(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=None)
    return elide(text, TEXT)

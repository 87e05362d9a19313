"""Count the policy's replies that a harness could not use whole: cut at a limit, empty, or refused.

The counts come from the recorded turns. A reply counts once: as refused, else as cut, else as empty. Choices do not
count, because each of them is one of its options.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from sia_core.domain.endings import LENGTH, REFUSED
from sia_core.domain.rollout import Rollout, Turn

NOTABLE = 0.1
"""Share of unusable replies from which a run says so without being asked."""


@dataclass(frozen=True)
class Replies:
    """Counts of the free replies of some rollouts."""

    total: int = 0
    cut: int = 0
    """Replies that ended at a limit of tokens."""
    silent: int = 0
    """Cut replies without any text, as of a model that was still thinking."""
    empty: int = 0
    """Whole replies with neither text nor a tool call."""
    refused: int = 0
    """Replies that the model or a filter of its provider refused."""
    longest: int = 0
    """Output tokens of the longest cut reply; 0 if the policy counts none."""
    limit: int = 0
    """The task's limit of tokens for a reply."""

    def __add__(self, other: Self) -> "Replies":
        return Replies(
            self.total + other.total,
            self.cut + other.cut,
            self.silent + other.silent,
            self.empty + other.empty,
            self.refused + other.refused,
            max(self.longest, other.longest),
            max(self.limit, other.limit),
        )

    @property
    def unusable(self) -> int:
        """Number of replies that were cut, empty or refused."""
        return self.cut + self.empty + self.refused

    @property
    def notable(self) -> bool:
        """True if the share of unusable replies is worth a line that nobody asked for."""
        return self.unusable > 0 and self.unusable >= NOTABLE * self.total

    @property
    def shares(self) -> dict[str, float]:
        """Share of all replies, by kind."""
        counts = {"cut": self.cut, "empty": self.empty, "refused": self.refused}
        return {kind: count / self.total if self.total else 0.0 for kind, count in counts.items()}

    def __str__(self) -> str:
        """Counts in a line, such as `38 of 40 cut at 256 tokens (12 without any text), 1 empty`."""
        silent = f" ({self.silent} without any text)" if self.silent else ""
        at = f" at {self.longest or self.limit} tokens" if self.limit else ""
        parts = [(self.cut, f"cut{at}{silent}"), (self.empty, "empty"), (self.refused, "refused")]
        said = [f"{count} {words}" for count, words in parts if count]
        if not said:
            return f"{self.total}, all whole"
        count, _, rest = said[0].partition(" ")
        return ", ".join([f"{count} of {self.total} {rest}", *said[1:]])

    def advice(self) -> Iterator[str]:
        """Say what to change, one sentence for each kind of unusable reply."""
        if self.cut and (not self.longest or self.longest >= self.limit):
            yield f"raise [sampling] max_tokens ({self.limit}) in task.toml, or ask for shorter replies"
        elif self.cut:
            yield (
                f"the task allows {self.limit} tokens, so a smaller limit applies: max_tokens of the harness's "
                "requests, [budget] tokens in harness.toml, or the server's window"
            )
        if self.empty:
            yield "a reply without text often means a wrong chat template, or a model that only thinks"
        if self.refused:
            yield "read what was refused in sia report RUN, and change the prompts or the policy"


def count_replies(rollouts: Iterable[Rollout]) -> Replies:
    """Count the free replies of rollouts."""
    return sum((_of_one(rollout) for rollout in rollouts), Replies())


def _of_one(rollout: Rollout) -> Replies:
    turns = [turn for turn in rollout.turns if turn.kind == "chat"]
    refused = [turn for turn in turns if turn.finish == REFUSED]
    cut = [turn for turn in turns if turn.finish == LENGTH]
    empty = [turn for turn in turns if _is_silent(turn) and turn.finish not in (LENGTH, REFUSED)]
    return Replies(
        len(turns),
        len(cut),
        sum(map(_is_silent, cut)),
        len(empty),
        len(refused),
        max(map(_output, cut), default=0),
        rollout.unit.sampling.max_tokens if turns else 0,
    )


def reply_lines(replies: Replies, where: str) -> list[str]:
    """Describe unusable replies and what to change; empty if every reply is whole.

    Args:
        where: part of the run in which the replies were given.
    """
    if not replies.unusable:
        return []
    advice: Sequence[str] = tuple(replies.advice())
    return [f"replies of the policy, {where}: {replies}: {'; '.join(advice)}"]


def _is_silent(turn: Turn) -> bool:
    return not turn.output.strip() and not turn.tool_calls


def _output(turn: Turn) -> int:
    return turn.output_tokens or len(turn.output_ids or ())

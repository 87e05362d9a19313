"""The track `llm`: whether an answer is text that the policy sampled in this very rollout.

The evidence is the gateway's record, which no harness can write. Each turn in which the policy named a charge is a
vote. A choice counts where at least two charges were among its options and the option drawn names one; a free reply
counts where its last line names exactly one.

An answer holds where at least one vote is for it and no other charge has more. What this cannot show is who did the
thinking: a harness may put the likeliest charge first and a policy may always take the first. So reports put what
copying the first candidate scores beside every result, and how many charges were offered.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sia_core.domain.rollout import Turn
from tasks.lawbench.labels import Reader, only, reader


@dataclass(frozen=True)
class Vote:
    """One turn in which the policy named a charge."""

    charge: str
    offered: int
    """Charges that it could have named."""


def votes(turns: Sequence[Turn], charges: tuple[str, ...]) -> list[Vote]:
    """The votes of a rollout, in the order in which they were asked for."""
    read = reader(charges)
    found = (_choice(turn, read) if turn.options is not None else _reply(turn, read) for turn in turns)
    return [vote for vote in found if vote is not None]


def objection(answer: str, cast: Sequence[Vote]) -> str:
    """Why an answer does not stand as the policy's own; empty where it does."""
    counted = Counter(vote.charge for vote in cast if vote.offered > 1)
    if not counted[answer]:
        if any(vote.charge == answer for vote in cast):
            return "the policy was offered no other charge to choose from"
        return "the policy did not say this charge in this rollout"
    most, number = counted.most_common(1)[0]
    if number > counted[answer]:
        return f"the policy said {most} {number} times, and the answer only {counted[answer]} times"
    return ""


def _choice(turn: Turn, read: Reader) -> Vote | None:
    assert turn.options is not None
    charge = only(read.named(turn.output))
    if charge is None or turn.output not in turn.options:
        return None
    offered = {found[0] for found in map(read.named, turn.options) if len(found) == 1}
    return Vote(charge, len(offered))


def _reply(turn: Turn, read: Reader) -> Vote | None:
    charge = read.stated(turn.output)
    return None if charge is None else Vote(charge, len(read.charges))

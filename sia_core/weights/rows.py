"""Convert recorded turns to the batch that a training step reads.

The turns of a rollout are laid out as rows: a turn continues the previous turn's row if its prompt begins
with exactly that row's ids, else it begins a new row (a fork: the harness cut, edited or rendered its
messages again). Each sampled token becomes one `Choice`, trained exactly once. Text between turns (tool
output, instructions) is context, and a forced token (one allowed) is not the policy's choice: neither is
ever trained. All choices of a rollout get the rollout's advantage, in all its rows.

Shared contexts: a causal model's logits at a position depend only on the ids before the position. So a row
that is the beginning of another row, of any rollout, is read from the longer one. Sharing is exact, and saves
most of the work, as chains of choices repeat their prompts often.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sia_core.domain.rollout import Rollout, Turn
from sia_core.weights import advantages
from sia_core.weights.algorithms import ALGORITHMS, Normaliser
from sia_core.weights.groups import SAME_SCORE, is_constant, make_groups, recorded, score_of, step_rewards
from sia_core.weights.preferences import make_labels, make_pairs

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Token:
    """One token of a row that the policy sampled from more than one allowed id."""

    position: int
    """Index into the row's ids."""
    turn: int
    allowed: Ids | None
    logprob: float | None


@dataclass(frozen=True)
class Row:
    """A sequence of consecutive turns."""

    ids: Ids
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Choice:
    """One sampled token."""

    sequence: int
    """Index into `Batch.sequences`."""
    position: int
    """Index of the logits that the token was sampled from: index of the last id before the token."""
    token: int
    allowed: Ids | None
    """Ids that the choice was restricted to; None for the whole vocabulary."""
    logprob: float | None
    """Logprob recorded when the token was sampled; None where only ids were recorded."""
    advantage: float
    rollout: int
    """Index among the batch's rollouts; the choices of a rollout are consecutive and in order."""
    weight: float = 1.0
    """Share of the token in the loss: the algorithm's normaliser."""
    reward: float = 0.0
    """Reward that the token earned, for algorithms that use more than the score."""


@dataclass(frozen=True)
class Batch:
    """One round's training data."""

    sequences: tuple[Ids, ...]
    """Distinct contexts; none is the beginning of another."""
    choices: tuple[Choice, ...]
    rollouts: int
    """Rollouts that are trained on."""
    constant_groups: int
    groups: int
    untrainable: int
    """Rollouts left out because ids or logprobs are missing."""
    rows: int = 0
    """Rows of the rollouts trained on: `rollouts` plus the number of forks."""
    pairs: tuple[tuple[int, int], ...] = ()
    """dpo: better and worse rollout."""
    good: tuple[bool, ...] = ()
    """kto: True for each rollout that is good."""


def merge_turns(turns: Sequence[Turn]) -> list[Row]:
    """Rows of one rollout; each turn is in exactly one row."""
    rows: list[Row] = []
    for number, turn in enumerate(turns):
        assert turn.prompt_ids is not None and turn.output_ids is not None
        begun = rows[-1] if rows else Row((), ())
        if turn.prompt_ids[: len(begun.ids)] == begun.ids:
            del rows[-1:]
        else:
            begun = Row((), ())
        rows.append(Row(turn.prompt_ids + turn.output_ids, begun.tokens + tuple(_tokens(number, turn))))
    return rows


def _tokens(number: int, turn: Turn) -> Iterable[Token]:
    assert turn.prompt_ids is not None and turn.output_ids is not None
    for at in range(len(turn.output_ids)):
        allowed = turn.allowed[at] if turn.allowed is not None else None
        if allowed is None or len(allowed) > 1:
            logprob = turn.logprobs[at] if turn.logprobs is not None else None
            yield Token(len(turn.prompt_ids) + at, number, allowed, logprob)


def make_batch(
    rollouts: Sequence[Rollout], algorithm: str, *, margin: float | None = None, threshold: float | None = None
) -> Batch:
    """Make the batch that `algorithm` trains on, independent of the order of `rollouts`.

    Raises:
        KeyError: unknown algorithm.
    """
    groups = make_groups(rollouts)
    mixed = [group for group in groups if not is_constant(group)]
    pairs = make_pairs(rollouts, margin) if algorithm == "dpo" else []
    labels = make_labels(rollouts, threshold) if algorithm == "kto" else []
    if pairs:
        members = [(rollout, 0.0) for pair in pairs for rollout in pair]
    elif algorithm in ("ppo", "kto"):
        members = [(rollout, 0.0) for group in groups for rollout in group] if _differ(groups) else []
    else:
        members = _advantaged(mixed, algorithm, threshold)
    usable = ("logprobs",) if ALGORITHMS[algorithm].needs.logprobs else ("logprobs", "ids")
    used = [(rollout, advantage) for rollout, advantage in members if recorded(rollout) in usable]
    batch = _lay_out(used, ALGORITHMS[algorithm].normaliser)
    index = {rollout.unit.key: at for at, (rollout, _) in enumerate(used)}
    return replace(
        batch,
        constant_groups=len(groups) - len(mixed),
        groups=len(groups),
        untrainable=len(members) - len(used),
        pairs=tuple(
            (index[better.unit.key], index[worse.unit.key])
            for better, worse in pairs
            if better.unit.key in index and worse.unit.key in index
        ),
        good=tuple(good for rollout, good in labels if rollout.unit.key in index) if used else (),
    )


def _differ(groups: Sequence[Sequence[Rollout]]) -> bool:
    earned = [reward for group in groups for r in group for reward in (score_of(r), *(step_rewards(r) or ()))]
    return max(earned, default=0.0) - min(earned, default=0.0) > SAME_SCORE


def _advantaged(
    mixed: Sequence[Sequence[Rollout]], algorithm: str, threshold: float | None
) -> list[tuple[Rollout, float]]:
    scores = [[score_of(rollout) for rollout in group] for group in mixed]
    advantage = ALGORITHMS[algorithm].advantage
    if algorithm == "best_of_n":
        found = [advantages.best_of_n(each, threshold) for each in scores]
    elif advantage is not None:
        found = advantage(scores)
    else:
        return []
    members = [pair for group, each in zip(mixed, found, strict=True) for pair in zip(group, each, strict=True)]
    # The losers of best_of_n are not trained on, so their logprobs may be missing.
    return [(r, a) for r, a in members if a > 0] if algorithm == "best_of_n" else members


def _lay_out(members: Sequence[tuple[Rollout, float]], normaliser: Normaliser) -> Batch:
    rows = [(at, row) for at, (rollout, _) in enumerate(members) for row in merge_turns(rollout.turns)]
    sequences, owner = _longest({_read(row) for _, row in rows if row.tokens})
    tokens = Counter(at for at, row in rows for _ in row.tokens)
    total = sum(tokens.values())
    rewards = [_rewards(rollout) for rollout, _ in members]
    last = {(at, token.turn): token for at, row in rows for token in row.tokens}
    choices = []
    for at, row in rows:
        for token in row.tokens:
            weight = {"rollouts": len(members), "tokens": total, "per_rollout": tokens[at] * len(members)}[normaliser]
            earned = rewards[at][token.turn] if last[at, token.turn] is token else 0.0
            choices.append(
                Choice(
                    owner[_read(row)],
                    token.position - 1,
                    row.ids[token.position],
                    token.allowed,
                    token.logprob,
                    members[at][1],
                    at,
                    1 / weight,
                    earned,
                )
            )
    return Batch(sequences, tuple(choices), len(members), 0, 0, 0, len(rows))


def _read(row: Row) -> Ids:
    """Ids of the row's longest context."""
    return row.ids[: row.tokens[-1].position]


def _rewards(rollout: Rollout) -> list[float]:
    """Return the reward of each turn with a choice; each other turn adds its reward to the last such turn before it."""
    given = step_rewards(rollout) or [0.0] * (len(rollout.turns) - 1) + [score_of(rollout)]
    rewards = [0.0] * len(given)
    latest: int | None = None
    for turn, reward in enumerate(given):
        if any(True for _ in _tokens(turn, rollout.turns[turn])):
            latest = turn
        if latest is not None:
            rewards[latest] += reward
    return rewards


def _longest(contexts: set[Ids]) -> tuple[tuple[Ids, ...], dict[Ids, int]]:
    """Contexts that are the beginning of no other, and the index of a context that begins with each."""
    kept: list[Ids] = []
    owner: dict[Ids, int] = {}
    # In reverse order, the beginning of a context comes right after a context that begins with it.
    for context in sorted(contexts, reverse=True):
        if not kept or kept[-1][: len(context)] != context:
            kept.append(context)
        owner[context] = len(kept) - 1
    return tuple(kept), owner

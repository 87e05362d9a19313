"""Which rollouts a report shows whole: a page has room for a few hundred, a run has thousands.

Of each set come first those that a decision cites, then the worst, the best, one of each kind of failure, then the
middle: what a reader looks for. What is left out is counted and said.
"""

from collections.abc import Collection, Iterator, Sequence

from sia_core.record.parquet import Row

CITED = 24
PER_SET = 6
"""Beside those that are cited."""


def choose(rows: Sequence[Row], cited: Collection[str], limit: int = PER_SET) -> list[Row]:
    """The rows to show, the most telling first; deterministic."""
    chosen: dict[str, Row] = {}
    for row in [row for row in rows if row.key in cited][:CITED]:
        chosen[row.key] = row
    extra = 0
    for row in _telling(rows):
        if extra >= limit:
            break
        if row.key not in chosen:
            chosen[row.key] = row
            extra += 1
    return list(chosen.values())


def _telling(rows: Sequence[Row]) -> Iterator[Row]:
    """Ends of the order alternate; a failure of each kind and an unscored rollout come between."""
    scored = sorted((row for row in rows if row.score is not None), key=lambda row: (row.score or 0.0, row.key))
    yield from scored[:1]
    yield from scored[-1:]
    kinds: dict[str, Row] = {}
    for row in rows:
        if row.failure is not None:
            kinds.setdefault(row.failure, row)
    yield from kinds.values()
    yield from scored[len(scored) // 2 : len(scored) // 2 + 1]
    yield from scored[1:3]
    yield from reversed(scored[-3:-1])

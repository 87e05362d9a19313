"""Choose the rollouts that a report shows whole: a page has room for a few hundred, a run has thousands.

From each set a reader sees first the rollouts that a decision cites, then the worst, the best, one of each kind of
failure, and the middle. The report says how many are left out.
"""

from collections.abc import Collection, Iterator, Sequence

from sia_core.record.parquet import Row

CITED = 24
PER_SET = 6
"""Rollouts shown of a set, beside those that are cited."""


def choose(rows: Sequence[Row], cited: Collection[str], limit: int = PER_SET) -> list[Row]:
    """Choose the rows to show, the most informative first; deterministic."""
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
    """Yield worst and best, one row of each kind of failure, the middle, then further worst and best rows."""
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

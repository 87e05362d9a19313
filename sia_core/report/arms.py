"""Format a comparison as tables of text."""

from collections.abc import Iterator, Sequence

from sia_core.search.arms import BEST_OF_N, ArmRow, Comparison

ROW_COLUMNS = ("arm", "sealed score", "gain over seed", "gain, over seeds", "by seed", "promoted", "rollouts", "tokens")
VERSUS_COLUMNS = ("difference", "over problems", "over seeds")


def arm_rows(found: Comparison) -> list[tuple[str, ...]]:
    """Format one row for each arm, in ROW_COLUMNS; costs are means over runs, without the sealed test."""
    return [_row(row) for row in found.rows]


def versus_rows(found: Comparison) -> list[tuple[str, ...]]:
    """Compare the leading arm with each other arm, in VERSUS_COLUMNS."""
    return [(f"{one.arm} - {one.other}", str(one.over_problems), str(one.over_seeds)) for one in found.versus]


def notes(found: Comparison) -> Iterator[str]:
    """Yield notes that explain the columns."""
    count = found.rows[0].seeds
    yield f"{count} seeds" if count > 1 else "one seed: other runs may differ"
    yield (
        f"two-sided {found.confidence:.0%} intervals: over problems, of these runs on other problems (bootstrap); "
        "over seeds, of other runs (Student's t of means paired by seed)"
    )
    yield "every arm's sealed problems and seeds are the same; costs leave the sealed test out"
    if any(row.arm == BEST_OF_N for row in found.rows):
        yield f"{BEST_OF_N} lets the verifier choose on the sealed problems: an agent has no access to it"


def arms_markdown(found: Comparison) -> str:
    """Format the whole comparison as markdown."""
    parts = [_table(ROW_COLUMNS, arm_rows(found))]
    if found.versus:
        parts.append(_table(VERSUS_COLUMNS, versus_rows(found)))
    return "\n\n".join([*parts, *notes(found)]) + "\n"


def _row(row: ArmRow) -> tuple[str, ...]:
    known = row.gain is not None
    return (
        row.arm,
        str(row.score),
        str(row.gain) if known else "-",
        str(row.gain_over_seeds) if known else "-",
        " ".join(f"{mean:.4f}" for mean in row.by_seed),
        f"{row.promoted:.1f}" if known else "-",
        f"{row.cost.rollouts}" if known else "-",
        f"{row.cost.tokens}" if known else "-",
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

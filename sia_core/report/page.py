"""Write the report of a run: one HTML file, from the record alone.

The file always stays below LIMIT: texts are cut, tables are capped, and the sample of transcripts shrinks to fit.
The page says how much it leaves out.
"""

from sia_core.domain.errors import RecordError
from sia_core.record.store import RunRecord
from sia_core.report import sections
from sia_core.report.decided import stand_in_lines
from sia_core.report.facts import Facts, read_facts
from sia_core.report.generation_section import Shelf, tell
from sia_core.report.html import render

FILE = "report.html"
"""Name of the run's artifact."""
LIMIT = 15_000_000
"""Bytes of a page."""
ROOMS = (8_000_000, 3_000_000, 500_000, 0)
"""Bytes for all transcripts together; the first that fits is used."""


def report(run: RunRecord) -> str:
    """Render the report.

    Raises:
        RecordError: the run never began, or its record was changed.
    """
    facts = read_facts(run)
    for room in ROOMS:
        page = _page(facts, room)
        if len(page.encode()) < LIMIT:
            return page
    raise RecordError(f"the report would exceed {LIMIT} bytes even without transcripts", where=run.name)


def _page(facts: Facts, room: int) -> str:
    shelf = Shelf(room // max(len(facts.generations), 1))
    generations = [tell(facts, generation, shelf) for generation in facts.generations]
    arms = sections.arms(facts)
    return render(
        "report",
        run=facts,
        verdict=sections.verdict(facts),
        head=sections.head(facts),
        sections=_contents(facts, with_arms=arms is not None),
        confidence=f"{facts.config.confidence:.0%}",
        scores=sections.scores(facts),
        sealed=sections.sealed(facts),
        lineage=sections.lineage(facts),
        stop=facts.stop,
        calibrations=facts.calibrations,
        stand_ins=stand_in_lines(facts.nodes),
        generations=generations,
        arms=arms,
        spending=sections.spending(facts),
        sandbox=sections.sandbox(facts),
        environment=sections.environment(facts),
        reproduce=sections.reproduce(facts),
        about=_about(shelf),
        notes=_notes(facts),
    )


def _contents(facts: Facts, *, with_arms: bool) -> list[tuple[str, str]]:
    fixed = [
        ("score", "Score"),
        ("sealed", "Sealed test"),
        ("lineage-section", "Lineage"),
        ("generations", "Generations"),
    ]
    each = [(f"generation-{generation.index}", str(generation.index)) for generation in facts.generations]
    rest = [("spending", "Spending"), ("environment", "Environment"), ("reproduce", "Reproduce"), ("about", "About")]
    return [*fixed, *each, *([("arms", "Arms")] if with_arms else []), *rest]


def _about(shelf: Shelf) -> str:
    if shelf.total == len(shelf.shown):
        return f"All {shelf.total} recorded rollouts are shown as transcripts."
    return (
        f"{len(shelf.shown)} of {shelf.total} recorded rollouts are shown as transcripts: of each set those that a "
        "decision cites, the worst, the best, each kind of failure, and the middle. Scores and tables count all. "
        "All records are the Parquet files under rollouts/ of the generations' MLflow runs."
    )


def _notes(facts: Facts) -> list[str]:
    confidence = f"{facts.config.confidence:.0%}"
    return [
        f"Intervals are two-sided at {confidence}, over problems. A child is promoted when the one-sided {confidence} "
        "bound of its gain, valid over all looks, is above 0. Early looks make promoted gains look larger than they "
        "are; the sealed test does not.",
        "Sealed problems are played once, at the end. Their trajectories are not recorded, only their scores.",
        "Texts of models, harnesses and tasks are shown as they are, cut where they are long; characters that do not "
        "print are spelled out, such as \\u{202e}.",
        "The harness's own words are not evidence: nothing is decided by them.",
    ]

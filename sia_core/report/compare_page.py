"""Format a comparison of runs as one HTML file."""

from sia_core.agents.quote import elide
from sia_core.report.charts import difference_chart
from sia_core.report.compare import RUN_COLUMNS, VERSUS_COLUMNS, RunComparison, notes, run_rows, versus_rows
from sia_core.report.html import render
from sia_core.report.problems import cut_note, pair_rows


def compare_page(found: RunComparison, link: str) -> str:
    """Render the page; `link` leads to MLflow's own comparison of the runs."""
    return render(
        "compare",
        found=found,
        names=[row.name for row in found.rows],
        link=link,
        run_columns=RUN_COLUMNS,
        run_rows=run_rows(found),
        versus_columns=VERSUS_COLUMNS,
        versus_rows=versus_rows(found),
        pairs=[
            {
                "run": one.run,
                "other": one.other,
                "tally": one.tally,
                "chart": difference_chart(
                    f"difference-{number}",
                    f"{one.run} minus {one.other} by problem",
                    [pair.difference for pair in one.pairs],
                ),
                "rows": pair_rows(one.pairs),
                "cut": cut_note(len(one.pairs)),
            }
            for number, one in enumerate(found.versus, 1)
        ],
        differences=[(one.setting, *(elide(value, 300) for value in one.values)) for one in found.differences],
        notes=list(notes(found)),
    )

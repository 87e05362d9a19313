"""`sia compare A B ...`: compare finished runs of one task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sia_core.report.compare import RunComparison


def compare(
    runs: Annotated[list[str], typer.Argument(help="Names of runs, or their beginnings; the first is the reference.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the comparison as one HTML file.")
    ] = None,
) -> None:
    """Compare RUNS on their common sealed problems: wins, intervals, costs, settings."""
    from sia_core.cli.report import write
    from sia_core.domain import json_data
    from sia_core.loop.create_run import mlflow_address, record
    from sia_core.report.compare import compare_page, compare_runs
    from sia_core.report.links import mlflow_comparison

    store = record()
    found = compare_runs([store.open(name) for name in runs])
    experiments, ids = [row.experiment_id for row in found.rows], [row.run_id for row in found.rows]
    address = mlflow_address()
    link = mlflow_comparison(address, experiments, ids) if address else None
    if html is not None:
        write(html, compare_page(found, link))
    if as_json:
        print(json.dumps({**json_data.write(found), "mlflow": link}, indent=2))
    else:
        print_comparison(found, link)


def print_comparison(found: "RunComparison", link: str | None) -> None:
    """Print the tables of a comparison, notes that explain them, and a link to the same runs in MLflow if it is up."""
    from sia_core.cli.plain import plain
    from sia_core.cli.servers import DOWN
    from sia_core.cli.show import console, print_table
    from sia_core.report.compare import RUN_COLUMNS, VERSUS_COLUMNS, notes, run_rows, versus_rows

    print_table(RUN_COLUMNS, run_rows(found))
    print_table(VERSUS_COLUMNS, versus_rows(found))
    settings = [(one.setting, *one.values) for one in found.differences]
    if settings:
        print_table(("differs", *(row.name for row in found.rows)), settings)
    else:
        console.print("no setting differs")
    for note in notes(found):
        console.print(plain(note))
    console.print(f"MLflow: {link or DOWN}", soft_wrap=True, markup=False)

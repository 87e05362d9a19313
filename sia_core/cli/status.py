"""`sia status [RUN]`: list runs, or show one."""

from typing import Annotated

import typer


def status(
    run: Annotated[str, typer.Argument(help="Name of a run or comparison; all if left out.")] = "",
) -> None:
    """List runs and comparisons, or show one."""
    from sia_core.cli.show import print_comparison, print_comparisons, print_result, print_runs
    from sia_core.loop.create_run import record
    from sia_core.record.arms import ArmsRecord

    store = record()
    comparisons = ArmsRecord.list_all(store)
    named = [comparison for comparison in comparisons if comparison.name == run]
    if named:
        print_comparison(named[0])
    elif run:
        print_result(store.open(run))
    else:
        print_runs(store.summaries())
        print_comparisons(comparisons)

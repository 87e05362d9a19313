"""`sia status [RUN]`: what runs there are, or how one stands."""

from typing import Annotated

import typer


def status(
    run: Annotated[str, typer.Argument(help="Name of a run or of a comparison; all when left out.")] = "",
) -> None:
    """List runs and comparisons of arms, or show one."""
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

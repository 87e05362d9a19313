"""`sia status [RUN]`: what runs there are, or how one stands."""

from typing import Annotated

import typer


def status(run: Annotated[str, typer.Argument(help="Name of a run; all runs when left out.")] = "") -> None:
    """List runs, or show one."""
    from flows.start import record
    from sia_core.cli.show import print_result, print_runs

    if run:
        print_result(record().open(run))
    else:
        print_runs(record().summaries())

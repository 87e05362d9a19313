"""`sia approve RUN`: say yes or no to the decision a run waits with."""

from typing import Annotated

import typer


def approve(
    run: Annotated[str, typer.Argument(help="Name of a run, or how it begins; see sia status.")],
    reject: Annotated[bool, typer.Option("--reject", help="Do not pull the lever; the run goes on without.")] = False,
    note: Annotated[str, typer.Option(help="Why; kept in the record, and told to the agent.")] = "",
) -> None:
    """Answer a run that was started with --approve."""
    from sia_core.cli import servers  # Loads Prefect and MLflow.

    servers.use_prefect()
    from flows.approval import Approval, answer
    from sia_core.loop.create_run import record

    found = record().open(run)
    name = answer(found.name, Approval(approve=not reject, note=note))
    print(f"{name}: {'rejected' if reject else 'approved'}")

"""`sia approve RUN`: approve or reject the decision that a run waits for."""

from typing import Annotated

import typer


def approve(
    run: Annotated[str, typer.Argument(help="Name of a run, its beginning, its task, or latest; see sia status.")],
    reject: Annotated[bool, typer.Option("--reject", help="Do not pull the lever; the run continues without.")] = False,
    note: Annotated[str, typer.Option(help="Your reason, which the record keeps and the agent receives.")] = "",
) -> None:
    """Answer a run that was started with --approve."""
    from sia_core.cli import servers  # Loads Prefect and MLflow.

    servers.use_prefect()
    from flows.approval import Approval, answer
    from sia_core.loop.create_run import record

    found = record().open(run)
    name = answer(found.name, Approval(approve=not reject, note=note))
    print(f"{name}: {'rejected' if reject else 'approved'}")

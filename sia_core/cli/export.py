"""`sia export RUN DIR`: export a run's winner."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(help="Name of a finished run, its beginning, its task, or latest.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New directory to write.")],
) -> None:
    """Write harness, adapter, model card and manifest of RUN's winner into DIR."""
    from sia_core.domain.command import command
    from sia_core.domain.task import Task
    from sia_core.export.write import write_export
    from sia_core.loop.create_run import record
    from sia_core.loop.fingerprint import check_same_task

    found = record().open(run)
    task = Task.load(found.config.task)
    check_same_task(found, task)
    manifest = write_export(found, task, directory)
    test = manifest.test
    adapter = f"adapter {manifest.adapter[:12]}" if manifest.adapter else "no adapter (the bare policy)"
    print(f"{found.name}: node {manifest.node}, harness {manifest.harness[:12]}, {adapter}")
    print(f"sealed test {test.final.mean:.4f} [{test.final.low:.4f}, {test.final.high:.4f}]")
    print(f"written to {directory}\n  next: {command('sia', 'eval', directory, task.where)}")

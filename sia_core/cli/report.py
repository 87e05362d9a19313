"""`sia report RUN`: write a run's report."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[str, typer.Argument(help="Name of a run, its beginning, its task, or latest; see sia status.")],
    out: Annotated[Path | None, typer.Option(help="File to write; ./RUN.html if not given.")] = None,
) -> None:
    """Write RUN as one self-contained HTML file: scores, lineage, decisions, transcripts, spending."""
    from sia_core.loop.create_run import record
    from sia_core.report.page import report as make  # Loads jinja2.

    found = record().open(run)
    path = out or Path(f"{found.name}.html")
    write(path, make(found))
    print(path)


def write(path: Path, page: str) -> None:
    """Write a page to disk.

    Raises:
        UsageError: the file cannot be written.
    """
    from sia_core.domain.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(path), hint="name another --out") from error

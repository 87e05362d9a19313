"""`sia check TASK`: check that a task is sound."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sia_core.check.report import Finding

WORDS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def check(
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    problems: Annotated[int, typer.Option(min=1, help="Number of training problems on which to try answers.")] = 2,
    sandbox: Annotated[str, typer.Option(help="Sandbox tier of the programs: strict, landlock or none.")] = "strict",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the findings to this file.")] = None,
) -> None:
    """Check that TASK is sound, and list its faults (exit code 3)."""
    from rich.console import Console

    from sia_core.check.task import check_task  # Loads numpy and the engine.
    from sia_core.cli.live import Live
    from sia_core.domain.errors import TaskError
    from sia_core.domain.json_data import write
    from sia_core.domain.task import Task
    from sia_core.loop.configure import parse_tier

    tier, loaded = parse_tier(sandbox), Task.load(task)
    _ = loaded.module
    with Live(Console(stderr=True)) as live:
        report = check_task(loaded, tier=tier, problems=problems, tell=tell, progress=live.progress)
    if json_file is not None:
        json_file.write_text(json.dumps(write(report), indent=2) + "\n")
    if report.failed:
        names = ", ".join(finding.check for finding in report.failed)
        raise TaskError(f"unsound: {names}", where=report.task, hint="fix the faults above, then check again")
    print(f"{report.task} is sound")


def tell(finding: "Finding") -> None:
    """Print a line for each check, and the next step if the check did not pass."""
    print(f"{WORDS[finding.status]:8} {finding.check:9} {finding.seen}")
    if finding.hint and finding.status != "passed":
        print(f"{'':18} next: {finding.hint}")

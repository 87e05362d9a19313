"""`sia eval DIR TASK`: score an export again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sia_core.export.evaluate import Evaluation


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that `sia export` wrote.")],
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    rollouts: Annotated[int | None, typer.Option(min=1, help="Rollouts a problem; the record's if not given.")] = None,
    policy: Annotated[str, typer.Option(help="Base model on this machine, such as local:DIR or vllm:DIR.")] = "",
    sandbox: Annotated[str, typer.Option(help="Sandbox tier of harness and programs.")] = "strict",
    workers: Annotated[int | None, typer.Option(min=1, help="Rollouts in flight; all CPUs if not given.")] = None,
    any_task: Annotated[bool, typer.Option("--any-task", help="Allow another task than the export's.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Repeat the sealed test of DIR's run on TASK and compare the scores with the record."""
    from rich.console import Console

    from sia_core.cli.live import Live
    from sia_core.domain.errors import UsageError
    from sia_core.domain.json_data import write
    from sia_core.domain.task import Task
    from sia_core.export.evaluate import Options
    from sia_core.export.evaluate import evaluate as play  # Loads Ray.
    from sia_core.export.manifest import Export
    from sia_core.loop.configure import parse_tier

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError("its directory does not exist", where=f"--json {json_file}", hint="create the directory first")
    export, loaded = Export.load(directory), Task.load(task)
    options = Options(policy, rollouts, parse_tier(sandbox), workers, any_task)
    with Live(Console(stderr=True)) as live:
        found = play(export, loaded, options, live)
    if json_file is not None:
        json_file.write_text(json.dumps(write(found), indent=2) + "\n")
    for line in evaluation_lines(found):
        print(line)


def evaluation_lines(found: "Evaluation") -> list[str]:
    """Describe the score beside the recorded one."""
    score, recorded = found.score, found.recorded
    lines = [
        f"scored    {score} ({score.problems} problems, {score.rollouts} rollouts)",
        f"recorded  {recorded['mean']:.4f} [{recorded['low']:.4f}, {recorded['high']:.4f}]",
    ]
    lines += [
        f"{name}: {value if isinstance(value, str) else format(value, '.6g')}" for name, value in found.report.items()
    ]
    if found.unscored:
        lines.append(f"{found.unscored} rollouts have no score, for reasons that are not the candidate's")
    if found.same is None:
        return [*lines, f"not compared rollout by rollout: {found.why}"]
    return [*lines, "every rollout scored what the record says" if found.same else f"differs: {found.why}"]

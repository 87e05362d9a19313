"""`sia arms TASK`: compare both levers with one lever, none, and as many tries."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sia_core.cli.run import print_plan
from sia_core.cli.settings import with_settings
from sia_core.domain.setting import SHARED

_SEEDS = 3


@with_settings(SHARED)
def arms(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")] = "",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help=f"Runs of each arm, each with its own seed ({_SEEDS}); with --resume, the new total."),
    ] = None,
    only: Annotated[
        str, typer.Option("--arms", help="Some of harness,weights,alternate,rules,agent,best-of-n; all by default.")
    ] = "",
    resume: Annotated[
        str, typer.Option(metavar="NAME", help="Resume an interrupted comparison, or add seeds to one.")
    ] = "",
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --resume: write sealed scores by arm and seed, as JSON.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
    **settings: Any,
) -> None:
    """Run TASK with several settings of the levers over several seeds, and compare the runs."""
    from sia_core.domain.errors import UsageError
    from sia_core.loop.configure import build_config
    from sia_core.search.arms import plan_arms

    if bool(task) == bool(resume):
        what = "name either a task or a comparison to resume"
        raise UsageError(what, where="sia arms", hint="sia arms TASK, or sia arms --resume NAME")
    if resume:
        _refuse_changes(context)
        from sia_core.cli.drive import go_on_comparing

        go_on_comparing(resume, seeds, save=save)
        return
    if save is not None:
        what = "needs --resume: only the scores of a finished comparison are saved"
        raise UsageError(what, where="--save", hint="sia arms --resume NAME --save FILE")
    seeds = _SEEDS if seeds is None else seeds
    config = build_config(task, **settings)
    plan = plan_arms(config, [name.strip() for name in only.split(",") if name.strip()], seeds)
    if dry_run:
        print(f"{len(plan.members)} runs: arms {', '.join(plan.arms)}, {seeds} seeds; the most expensive of them:")
        print_plan(config)
        return
    from sia_core.cli.warm_start import begin

    begin(config.policy)
    from sia_core.cli.drive import compare  # Loads Prefect and MLflow.

    compare(plan)


def _refuse_changes(context: typer.Context) -> None:
    """Refuse changed settings, with which the runs of a comparison would no longer compare."""
    from sia_core.domain.errors import UsageError

    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("resume", "seeds", "save") and source is not None and source.name == "COMMANDLINE":
            option = "--arms" if name == "only" else "--" + name.replace("_", "-")
            what = f"{option} does not go with --resume: a comparison keeps its settings"
            raise UsageError(what, where="sia arms", hint=f"leave {option} out; you may raise --seeds, and give --save")

"""`sia adopt RUN`: accept a run or comparison that another SIA_HOME wrote."""

from typing import Annotated

import typer


def adopt(
    run: Annotated[str, typer.Argument(help="Name of a run, its beginning, or name of a comparison; see sia status.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show what RUN of another SIA_HOME would load and run here, and accept it."""
    from sia_core.cli.plain import plain
    from sia_core.domain.errors import UsageError
    from sia_core.loop.create_run import record
    from sia_core.record.arms import ArmsRecord
    from sia_core.search.arms import ArmsPlan

    store = record()
    comparison = next((one for one in ArmsRecord.list_all(store) if one.name == run), None)
    found = comparison or store.find(run)
    runs = list(comparison.members().values()) if comparison else [store.find(run)]
    print(f"{found.name}, started by {plain(found.tags.get('mlflow.user', 'someone'))}, would use on this machine:")
    configs = [ArmsPlan.model_validate(comparison.unsealed_plan).config] if comparison else []
    for config in configs + [one.unsealed_config.model_copy(update=one.changed_settings) for one in runs]:
        for name in ("task", "policy", "agent", "sandbox", "branch_from"):
            print(f"  {name:<12} {plain(str(getattr(config, name)))}")
    if not yes and not typer.confirm("Load the code of this task, start this agent and ask these servers?"):
        raise UsageError("not adopted", where=found.name, hint="nothing was loaded")
    for one in runs:
        one.adopt()
    if comparison:
        comparison.adopt()
    print(f"{found.name} is adopted: this SIA_HOME resumes and reads it now")

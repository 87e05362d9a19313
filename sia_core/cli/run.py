"""`sia run TASK`: start a run and finish it."""

from typing import Annotated, Any

import typer

from sia_core.cli.settings import with_settings
from sia_core.domain.config import RunConfig
from sia_core.domain.setting import options

UiOption = Annotated[bool, typer.Option("--ui/--no-ui", help="Start both UIs at the end.")]


@with_settings(one.name for one in options(RunConfig))
def run(
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    ui: UiOption = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
    **settings: Any,
) -> None:
    """Improve a task agent on TASK."""
    from sia_core.loop.configure import build_config

    config = build_config(task, **settings)
    branch_from, seed = settings["branch_from"], settings["seed"]
    if branch_from is not None:
        from sia_core.loop.create_run import branch  # Loads MLflow.

        config = branch(config, branch_from, seed)
    if dry_run:
        print_plan(config)
        return
    from sia_core.cli.warm_start import begin

    begin(config.policy)
    from sia_core.cli.drive import start  # Loads Prefect and MLflow.

    start(config, ui=ui)


def print_plan(config: RunConfig) -> None:
    """Print the plan of the run, with the rollouts of each phase."""
    from sia_core.agents.registry import asks_model
    from sia_core.domain.plan import plan_rollouts
    from sia_core.domain.task import Task
    from sia_core.policy.spec import parse_spec

    task = Task.load(config.task)
    plan = plan_rollouts(config, task.config.update)
    print(f"task {task.name} ({task.digest[:12]}), policy {config.policy}, agent {config.agent}, seed {config.seed}")
    if config.branch_from:
        print(f"starts from {config.branch_from}")
    print(f"{config.generations} generations, levers: {', '.join(config.levers) or 'none'}, sandbox {config.sandbox}")
    print(f"  execute      {plan.execute:6d} rollouts a generation ({config.problems} problems x {config.rollouts})")
    if plan.gate:
        sides = f"({config.gate_problems} problems x {config.gate_rollouts} x 3)"
        print(f"  gate         {plan.gate:6d} rollouts a child at most {sides}, {config.siblings} a generation")
    if plan.validation:
        print(f"  validation   {plan.validation:6d} rollouts at most for a rewritten harness")
    if plan.trials:
        print(f"  trials       {plan.trials:6d} rollouts of drafts at most for each decision")
    if plan.update:
        print(f"  update       {plan.update:6d} rollouts at most for each weight update")
    print(f"  sealed test  {plan.sealed:6d} rollouts, once")
    most = config.generations * plan.generation + plan.sealed
    paid = parse_spec(config.policy)
    price = f"are requested from {paid.base_url}" if paid else "run on this machine and cost no money"
    print(f"at most {most} rollouts, which {price}")
    if str(config.budget):
        print(f"budget: {config.budget}")
    if asks_model(config.agent) and config.levers:
        if config.agent.startswith("command:"):
            print(f"  agent        {config.agent_minutes:6g} minutes a decision at most; tokens are not known")
            return
        limit = f", {config.agent_dollars:g} dollars" if config.agent_dollars else ""
        print(f"  agent        {config.agent_tokens:6d} tokens a decision at most{limit}")

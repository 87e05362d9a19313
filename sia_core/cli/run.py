"""`sia run TASK`: start a run and see it through."""

from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

if TYPE_CHECKING:
    from sia_core.config import RunConfig

Generations = Annotated[int | None, typer.Option(min=1, help="Generations; the task's plan when not given.")]
Rollouts = Annotated[int | None, typer.Option(min=1, help="Rollouts of each training problem.")]
UiOption = Annotated[bool, typer.Option("--ui/--no-ui", help="Start both UIs at the end.")]
Problems = Annotated[int | None, typer.Option(min=1, help="Training problems a generation executes.")]


def run(
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    generations: Generations = None,
    levers: Annotated[str, typer.Option(help='harness, weights, both, or "" for none.')] = "harness,weights",
    policy: Annotated[
        str,
        typer.Option(
            help="smollm2, local:DIR, vllm:DIR[@URL], openai:MODEL[@URL], anthropic:MODEL[@URL], replay:FILE, scripted."
        ),
    ] = "smollm2",
    agent: Annotated[
        str, typer.Option(help="Feedback-Agent: rules, anthropic:MODEL, openai:MODEL[@URL] or replay:FILE.")
    ] = "rules",
    meta: Annotated[bool, typer.Option("--meta", help="Let the agent write the first harness.")] = False,
    agent_turns: Annotated[int, typer.Option(min=1, help="Requests to the agent's model a decision.")] = 30,
    agent_tokens: Annotated[int, typer.Option(min=1, help="Tokens a decision may take.")] = 600_000,
    agent_dollars: Annotated[float | None, typer.Option(help="Dollars a decision may take.")] = None,
    siblings: Annotated[int, typer.Option(min=1, max=8, help="Children a generation tries.")] = 1,
    approve: Annotated[bool, typer.Option("--approve", help="Wait for a person's word before a lever.")] = False,
    parent: Annotated[str, typer.Option(help="Node to branch from: best, the champion, or puct over all.")] = "best",
    until_plateau: Annotated[
        bool, typer.Option("--until-plateau", help="End before the generations do, once no gain is to be had.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Every random choice derives from it.")] = 0,
    rollouts: Rollouts = None,
    problems: Problems = None,
    sandbox: Annotated[
        str, typer.Option(help="strict; landlock, a weaker one; or none, which protects nothing.")
    ] = "strict",
    batch: Annotated[int, typer.Option(min=1, help="Requests a local policy samples together.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of policy and training.")] = 2,
    workers: Annotated[int | None, typer.Option(min=1, help="Rollouts in flight; all CPUs when not given.")] = None,
    graders: Annotated[int | None, typer.Option(min=1, help="Workers that only verify; none when not given.")] = None,
    ui: UiOption = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
) -> None:
    """Improve a task agent on TASK."""
    config = build_config(
        task,
        {"generations": generations, "rollouts": rollouts, "problems": problems},
        levers=levers,
        policy=policy,
        agent=agent,
        meta=meta,
        agent_turns=agent_turns,
        agent_tokens=agent_tokens,
        agent_dollars=agent_dollars,
        siblings=siblings,
        approve=approve,
        parent=parent,
        until_plateau=until_plateau,
        seed=seed,
        tier=sandbox,
        batch=batch,
        threads=threads,
        workers=workers,
        graders=graders,
    )
    if dry_run:
        print_plan(config)
        return
    from sia_core.cli.drive import start  # Loads Prefect, Ray and MLflow.

    start(config, ui=ui)


def build_config(task: str, plan: dict[str, int | None], *, levers: str, tier: str, **settings: Any) -> "RunConfig":
    """The run's configuration from the command line and the task's plan.

    Raises:
        UsageError: an option that cannot be meant.
        TaskError: a task.toml or task.py that cannot be used.
        HarnessError: a harness that cannot be loaded.
    """
    from sia_core.agents.registry import check_agent
    from sia_core.config import RunConfig, Tier, parse_levers
    from sia_core.errors import UsageError
    from sia_core.harness import Harness
    from sia_core.policy.registry import check_spec
    from sia_core.search.lineage import parent_policy
    from sia_core.task import Task, task_names
    from sia_core.weights.algorithms import check_algorithm

    loaded = Task.load(task)
    asked_meta = settings["meta"]
    # Cheap to check here; Prefect, Ray and MLflow take seconds to load.
    settings["meta"] = settings["meta"] or not (loaded.path / loaded.config.harness).exists()
    if not settings["meta"]:
        Harness.load(loaded.path / loaded.config.harness)
    _ = loaded.module
    check_algorithm(loaded.config.update.algorithm, str(loaded.path / "task.toml"))
    check_spec(settings["policy"])
    check_agent(settings["agent"], settings["agent_dollars"])
    parent_policy(settings["parent"])
    if settings["meta"] and settings["agent"] == "rules":
        raise UsageError(
            f"task {loaded.name} has no harness to begin with" if not asked_meta else "rules writes no harness",
            where="--agent",
            hint="name a language model that writes one: --agent anthropic:MODEL or openai:MODEL[@URL]",
        )
    if tier not in get_args(Tier):
        raise UsageError(f"unknown sandbox tier {tier!r}", where="--sandbox", hint="use strict, landlock or none")
    defaults = loaded.config.plan.model_dump()
    asked = {name: value for name, value in plan.items() if value is not None}
    where = task if task in task_names() else str(loaded.path)
    return RunConfig(
        task=where,
        levers=parse_levers(levers),
        tier=cast("Tier", tier),
        **(defaults | asked),
        **settings,
    )


def print_plan(config: "RunConfig") -> None:
    """What the run would do and how much of it."""
    from sia_core.config import LADDER_ROLLOUTS
    from sia_core.policy.spec import parse_spec
    from sia_core.task import Task

    task = Task.load(config.task)
    execute = config.problems * config.rollouts
    # At most: a child that is better also meets the best earlier node, and most gates end after a part of the blocks.
    gate = 3 * config.gate_problems * config.gate_rollouts if config.levers else 0
    ladder = LADDER_ROLLOUTS if "harness" in config.levers else 0
    # The first round is the evidence's rollouts, or as many new ones where these are of another pair.
    anchors = 2 * task.config.update.anchors * config.gate_rollouts
    update = task.config.update.rounds * execute + anchors if "weights" in config.levers else 0
    sealed = 2 * config.test_problems * config.test_rollouts
    print(f"task {task.name} ({task.digest[:12]}), policy {config.policy}, agent {config.agent}, seed {config.seed}")
    print(f"{config.generations} generations, levers: {', '.join(config.levers) or 'none'}, sandbox {config.tier}")
    print(f"  execute      {execute:6d} rollouts a generation ({config.problems} problems x {config.rollouts})")
    if gate:
        sides = f"({config.gate_problems} problems x {config.gate_rollouts} x 3)"
        print(f"  gate         {gate:6d} rollouts a child at most {sides}, {config.siblings} a generation")
    if ladder:
        print(f"  validation   {ladder:6d} rollouts at most for a rewritten harness")
    if update:
        print(f"  update       {update:6d} rollouts at most each time that lever is pulled")
    print(f"  sealed test  {sealed:6d} rollouts, once")
    most = config.generations * (execute + config.siblings * (gate + ladder + update)) + sealed
    paid = parse_spec(config.policy)
    price = f"are asked of {paid.base_url}" if paid else "run on this machine and cost no money"
    print(f"at most {most} rollouts, which {price}")
    if config.agent != "rules" and config.levers:
        limit = f", {config.agent_dollars:g} dollars" if config.agent_dollars else ""
        print(f"  agent        {config.agent_tokens:6d} tokens a decision at most{limit}")

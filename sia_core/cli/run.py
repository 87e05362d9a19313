"""`sia run TASK`: start a run and see it through."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sia_core.domain.config import RunConfig

Generations = Annotated[int | None, typer.Option(min=1, help="Generations; the task's plan when not given.")]
Rollouts = Annotated[int | None, typer.Option(min=1, help="Rollouts of each training problem.")]
UiOption = Annotated[bool, typer.Option("--ui/--no-ui", help="Start both UIs at the end.")]
BudgetOption = Annotated[
    str, typer.Option(help="What may be spent: rollouts=5000,tokens=2e6,dollars=5,gpu_hours=1,hours=2; any of them.")
]
AgentTimeout = Annotated[
    int, typer.Option(min=1, help="Seconds of silence after which the server of the agent's model is given up.")
]
TestProblems = Annotated[int | None, typer.Option(min=2, help="Sealed problems scored at the end.")]
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
        str,
        typer.Option(
            help="Feedback-Agent: rules, anthropic:MODEL, openai:MODEL[@URL], command:CMD, recorded, recorded:FILE or "
            "replay:FILE."
        ),
    ] = "rules",
    meta: Annotated[bool, typer.Option("--meta", help="Let the agent write the first harness.")] = False,
    agent_turns: Annotated[int, typer.Option(min=1, help="Requests to the agent's model a decision.")] = 30,
    agent_tokens: Annotated[int, typer.Option(min=1, help="Tokens a decision may take.")] = 600_000,
    agent_dollars: Annotated[float | None, typer.Option(help="Dollars a decision may take.")] = None,
    agent_timeout: AgentTimeout = 1200,
    agent_rollouts: Annotated[int, typer.Option(min=0, help="Rollouts of drafts that a decision may take.")] = 64,
    agent_seconds: Annotated[float, typer.Option(min=0, help="Seconds of such rollouts, added up.")] = 1200.0,
    agent_minutes: Annotated[float, typer.Option(min=0.01, help="Agent command: minutes a decision may take.")] = 60.0,
    agent_network: Annotated[
        str,
        typer.Option(metavar="HOSTS", help="Agent command: hosts it may reach, such as api.example.com; * for all."),
    ] = "",
    agent_env: Annotated[
        str, typer.Option(metavar="NAMES", help="Agent command: environment variables it is given, such as a key.")
    ] = "",
    agent_files: Annotated[
        str, typer.Option(metavar="PATHS", help="Agent command: files of your home that it finds copies of in its own.")
    ] = "",
    agent_mounts: Annotated[
        str, typer.Option(metavar="PATHS", help="Agent command: further directories that it may read.")
    ] = "",
    budget: BudgetOption = "",
    edit_scope: Annotated[str, typer.Option(help="Files a rewrite may change: all, or prompts (.md, .txt).")] = "all",
    max_edit_lines: Annotated[int | None, typer.Option(min=1, help="Lines a rewrite may add and remove.")] = None,
    reuse_states: Annotated[
        bool, typer.Option("--reuse-states", help="Begin training rollouts from earlier answers to their problem.")
    ] = False,
    siblings: Annotated[int, typer.Option(min=1, max=8, help="Children a generation tries.")] = 1,
    approve: Annotated[bool, typer.Option("--approve", help="Wait for a person's word before a lever.")] = False,
    parent: Annotated[str, typer.Option(help="Node to branch from: best, the champion, or puct over all.")] = "best",
    until_plateau: Annotated[
        bool, typer.Option("--until-plateau", help="End before the generations do, once no gain is to be had.")
    ] = False,
    branch_from: Annotated[
        str | None,
        typer.Option(metavar="RUN[:GENERATION]", help="Begin from a candidate of another run, such as its champion."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Every random choice derives from it. 0; for a branch, the next after that run's."),
    ] = None,
    rollouts: Rollouts = None,
    problems: Problems = None,
    test_problems: TestProblems = None,
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
    from sia_core.domain.config import parse_names
    from sia_core.loop.configure import build_config

    config = build_config(
        task,
        {"generations": generations, "rollouts": rollouts, "problems": problems, "test_problems": test_problems},
        levers=levers,
        policy=policy,
        agent=agent,
        meta=meta,
        agent_turns=agent_turns,
        agent_tokens=agent_tokens,
        agent_dollars=agent_dollars,
        agent_timeout=agent_timeout,
        agent_rollouts=agent_rollouts,
        agent_seconds=agent_seconds,
        agent_minutes=agent_minutes,
        agent_network=parse_names(agent_network),
        agent_env=parse_names(agent_env),
        agent_files=parse_names(agent_files),
        agent_mounts=parse_names(agent_mounts),
        budget=budget,
        edit_scope=edit_scope,
        max_edit_lines=max_edit_lines,
        reuse_states=reuse_states,
        siblings=siblings,
        approve=approve,
        parent=parent,
        until_plateau=until_plateau,
        seed=seed or 0,
        branched=branch_from is not None,
        tier=sandbox,
        batch=batch,
        threads=threads,
        workers=workers,
        graders=graders,
    )
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


def print_plan(config: "RunConfig") -> None:
    """What the run would do and how much of it."""
    from sia_core.agents.registry import asks_model
    from sia_core.domain.plan import plan_rollouts
    from sia_core.domain.task import Task
    from sia_core.policy.spec import parse_spec

    task = Task.load(config.task)
    plan = plan_rollouts(config, task.config.update)
    print(f"task {task.name} ({task.digest[:12]}), policy {config.policy}, agent {config.agent}, seed {config.seed}")
    if config.branch_from:
        print(f"begins from {config.branch_from}")
    print(f"{config.generations} generations, levers: {', '.join(config.levers) or 'none'}, sandbox {config.tier}")
    print(f"  execute      {plan.execute:6d} rollouts a generation ({config.problems} problems x {config.rollouts})")
    if plan.gate:
        sides = f"({config.gate_problems} problems x {config.gate_rollouts} x 3)"
        print(f"  gate         {plan.gate:6d} rollouts a child at most {sides}, {config.siblings} a generation")
    if plan.validation:
        print(f"  validation   {plan.validation:6d} rollouts at most for a rewritten harness")
    if plan.trials:
        print(f"  trials       {plan.trials:6d} rollouts of drafts at most for each decision")
    if plan.update:
        print(f"  update       {plan.update:6d} rollouts at most each time that lever is pulled")
    print(f"  sealed test  {plan.sealed:6d} rollouts, once")
    most = config.generations * plan.generation + plan.sealed
    paid = parse_spec(config.policy)
    price = f"are asked of {paid.base_url}" if paid else "run on this machine and cost no money"
    print(f"at most {most} rollouts, which {price}")
    if str(config.budget):
        print(f"budget: {config.budget}")
    if asks_model(config.agent) and config.levers:
        if config.agent.startswith("command:"):
            print(f"  agent        {config.agent_minutes:6g} minutes a decision at most; tokens are not known")
            return
        limit = f", {config.agent_dollars:g} dollars" if config.agent_dollars else ""
        print(f"  agent        {config.agent_tokens:6d} tokens a decision at most{limit}")

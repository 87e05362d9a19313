"""Print the plan of a run for `--dry-run`: the rollouts of each phase, and what differs from the task's plan."""

from collections.abc import Iterator

from sia_core.agents.recorded import is_recorded, load_recording
from sia_core.agents.registry import asks_model
from sia_core.domain.config import RunConfig
from sia_core.domain.plan import plan_rollouts, played
from sia_core.domain.task import Task
from sia_core.domain.task_config import UpdateDefaults
from sia_core.loop.splits import peek, remarks
from sia_core.policy.registry import can_train
from sia_core.policy.spec import parse_spec
from sia_core.weights.proposal import SETTINGS


def plan_lines(config: RunConfig) -> Iterator[str]:
    """Describe the plan of the run, with the most rollouts of each phase."""
    task = Task.load(config.task)
    sizes, unknown = peek(task)
    update = _most_rounds(config, task)
    plan = plan_rollouts(config, update, sizes)
    fitted = played(config, update, sizes) if sizes else config
    yield f"task {task.name} ({task.digest[:12]}), policy {config.policy}, agent {config.agent}, seed {config.seed}"
    if config.branch_from:
        yield f"starts from {config.branch_from}"
    count = f"{config.generations} generation{'s' if config.generations > 1 else ''}"
    bare = f" (policy {config.policy} cannot be trained)" if config.levers and not can_train(config.policy) else ""
    yield f"{count}, levers: {', '.join(config.levers) or 'none'}{bare}, sandbox {config.sandbox}"
    yield f"  execute      {plan.execute:6d} rollouts a generation ({fitted.problems} problems x {config.rollouts})"
    if plan.gate:
        sides = f"({fitted.gate_problems} problems x {config.gate_rollouts} x 3)"
        yield f"  gate         {plan.gate:6d} rollouts a child at most {sides}, {config.siblings} a generation"
    if plan.validation:
        yield f"  validation   {plan.validation:6d} rollouts at most for a rewritten harness"
    if plan.trials:
        yield f"  trials       {plan.trials:6d} rollouts of drafts at most for each decision"
    if plan.update:
        yield f"  update       {plan.update:6d} rollouts at most for each weight update{_rounds(config, update)}"
    yield f"  sealed test  {plan.sealed:6d} rollouts, once"
    yield _total(config, config.generations * plan.generation + plan.sealed)
    if sizes is None:
        yield f"  {unknown}: the plan assumes that each split has enough problems"
    yield from (f"  {line}" for line in (remarks(config, task, sizes) if sizes else ()))
    if str(config.budget):
        yield f"budget: {config.budget}"
    yield from _agent(config)


def _most_rounds(config: RunConfig, task: Task) -> UpdateDefaults:
    """Return the task's defaults of an update, with the rounds that recorded decisions ask for if they are more."""
    update = task.config.update
    if not is_recorded(config.agent):
        return update
    asked = [int(one.update.get("rounds", 0)) for one in load_recording(config.agent, task).decisions]
    return update.model_copy(update={"rounds": max(update.rounds, *asked, 1)})


def _rounds(config: RunConfig, update: UpdateDefaults) -> str:
    rounds = f" ({update.rounds} rounds"
    return (
        f"{rounds}; the agent may ask for up to {SETTINGS['rounds'].high:g})" if config.plays_drafts else f"{rounds})"
    )


def _total(config: RunConfig, most: int) -> str:
    server = parse_spec(config.policy)
    remote = server.base_url if server else ""
    price = f"are requested from {remote}" if remote else "run on this machine and cost no money"
    return f"at most {most} rollouts, which {price}"


def _agent(config: RunConfig) -> Iterator[str]:
    if not asks_model(config.agent) or not config.levers:
        return
    if config.agent.startswith("command:"):
        yield f"  agent        {config.agent_minutes:6g} minutes a decision at most; tokens are not known"
        return
    limit = f", {config.agent_dollars:g} dollars" if config.agent_dollars else ""
    yield f"  agent        {config.agent_tokens:6d} tokens a decision at most{limit}"

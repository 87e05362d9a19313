"""The jail of a run whose agent is a command, and what can be told to be wrong with it before anything is spent."""

from pathlib import Path

from sia_core.agents.command.spec import PREFIX, Commanding, home_files, parse_command, passed_in
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import UsageError
from sia_core.domain.task import Task
from sia_core.engine.jail import BubbleJail
from sia_core.host.home import home

_OF_COMMANDS = ("agent_network", "agent_env", "agent_files", "agent_mounts")


def check_command(config: RunConfig) -> None:
    """Refuse a command that could not be run as it is asked for; nothing where the agent is none.

    Raises:
        UsageError: its program, a variable or a file is missing, or something would be shown that must stay hidden.
        SandboxError: bubblewrap or libseccomp is missing.
    """
    if config.agent.startswith(PREFIX):
        command = parse_command(config.agent)
        passed_in(config.agent_env)
        home_files(config.agent_files)
        _jail(config, Task.load(config.task)).check(command)
        return
    given = [name for name in _OF_COMMANDS if getattr(config, name)]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError("belongs to an agent that is a command", where=option, hint="use --agent command:CMD")


def commanding(config: RunConfig, task: Task, folder: Path, forgotten: str) -> Commanding | None:
    """The means of a command agent; None for other agents.

    Args:
        folder: the run's.
        forgotten: how often generations of the run were forgotten: what was handed in then is asked for again.
    """
    if not config.agent.startswith(PREFIX):
        return None
    return Commanding(
        _jail(config, task),
        folder / ("command" if forgotten == "0" else f"command-{forgotten}"),
        config.agent_minutes,
        passed_in(config.agent_env),
        home_files(config.agent_files),
    )


def _jail(config: RunConfig, task: Task) -> BubbleJail:
    mounts = [Path(name).expanduser().absolute() for name in config.agent_mounts]
    return BubbleJail(mounts=mounts, hidden=(home(), task.path), hosts=config.agent_network)

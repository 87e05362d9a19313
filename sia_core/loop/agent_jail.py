"""Build the jail of an agent that is a command, and find errors in its settings before anything is spent."""

from pathlib import Path

from sia_core.agents.command.spec import PREFIX, Commanding, home_files, parse_command, passed_in
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import UsageError
from sia_core.domain.task import Task
from sia_core.engine.jail import BubbleJail
from sia_core.host.home import home

_OF_COMMANDS = ("agent_network", "agent_env", "agent_files", "agent_mounts")


def check_command(config: RunConfig) -> None:
    """Refuse an agent's command that could not be run; do nothing for other agents.

    Raises:
        UsageError: a program, variable or file is missing, or a mount would show what must stay hidden.
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
    """Collect what a command agent needs; None for other agents.

    Args:
        folder: folder of the run.
        forgotten: number of times that generations were forgotten. Work handed in before the last time is requested
            again.
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

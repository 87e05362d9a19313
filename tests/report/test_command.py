"""The command that a report prints starts the same run."""

import shlex

import pytest
from typer.testing import CliRunner

from sia_core.cli import run as verb
from sia_core.cli.main import app
from sia_core.domain.budget import Budget
from sia_core.domain.config import RunConfig
from sia_core.domain.task import Task
from sia_core.report.command import run_command, settings
from tests.factories import TOY


def asked_for(command: str, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The configuration that the command line makes of a command."""
    found: list[RunConfig] = []
    monkeypatch.setattr(verb, "print_plan", found.append)
    program, *words = shlex.split(command)
    assert program == "sia"
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert done.exit_code == 0, done.output
    return found[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"levers": (), "generations": 1, "seed": 7, "sandbox": "none", "workers": 3, "siblings": 2},
        {
            "policy": "smollm2",
            "levers": ("weights",),
            "budget": Budget(rollouts=5000, tokens=2e6),
            "approve": True,
            "until_plateau": True,
            "reuse_states": True,
            "parent": "puct",
            "max_edit_lines": 4,
            "agent_timeout": 3600,
            "agent_rollouts": 32,
            "agent_seconds": 60.0,
        },
        {
            "agent": "command:sh -c 'a b' {prompt}",
            "agent_network": ("api.example.com", "127.0.0.1:8000"),
            "agent_env": ("HOME",),
            "agent_mounts": ("/usr/share",),
            "agent_minutes": 5.0,
        },
    ],
)
def test_printed_command_gives_the_same_configuration(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Task.load(TOY).config.plan.model_dump()
    given = {"policy": "scripted", "levers": ("harness",), **plan, **settings}
    config = RunConfig(task=TOY, **given)
    assert asked_for(run_command(config), monkeypatch) == config


def test_settings_read_as_words() -> None:
    found = settings(RunConfig(task=TOY, **Task.load(TOY).config.plan.model_dump(), levers=()))
    assert (found["levers"], found["meta"], found["workers"], found["budget"], found["seed"]) == (
        *("none", "no", "none", "none", "0"),
    )

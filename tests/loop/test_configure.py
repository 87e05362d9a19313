"""Settings of a child run that differ from its parent's."""

import pytest

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import UsageError
from sia_core.loop.configure import build_config, change_config
from tests.factories import TOY


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return build_config(TOY, levers="harness", sandbox="none", policy="scripted", agent="rules", meta=False)


def test_settings_are_read_as_on_the_command_line(config: RunConfig) -> None:
    asked = {"levers": "", "budget": "rollouts=50", "siblings": "2", "approve": "true", "plateau": "0.1"}
    asked["agent_timeout"] = "3600"
    changed = change_config(config, asked)
    assert (changed.levers, changed.budget.rollouts, changed.siblings) == ((), 50, 2)
    assert changed.approve is True and changed.plateau == 0.1 and changed.agent_timeout == 3600
    same = set(RunConfig.model_fields) - set(asked)
    assert all(getattr(changed, name) == getattr(config, name) for name in same)
    assert change_config(config, {}) == config


def test_scope_of_a_child_run_goes_by_the_agent_that_the_run_has(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    asked = config.model_copy(update={"agent": "openai:m@http://127.0.0.1:1/v1"})
    assert change_config(asked, {"edit_scope": "prompts"}).edit_scope == "prompts"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("policy", "smollm2", "'policy' cannot be changed"),
        ("seed", "1", "'seed' cannot be changed"),
        ("colour", "blue", "'colour' cannot be changed"),
        ("siblings", "nine", "siblings"),
        ("siblings", "9", "siblings"),
        ("agent_timeout", "0", "agent_timeout"),
        ("levers", "all", "unknown lever"),
        ("edit_scope", "prompts", "rules moves knobs"),
    ],
)
def test_invalid_change_of_the_configuration_is_refused(config: RunConfig, name: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        change_config(config, {name: value})

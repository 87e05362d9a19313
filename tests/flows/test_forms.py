"""Forms of the Prefect UI refuse invalid values, make the configuration, and fit prefect.yaml."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.schema_tools.validation import is_valid, validate

from flows import registration
from flows.deployments import ArmsForm, EvolveForm, GenerationForm, ReportForm
from sia_core.domain.budget import Budget
from sia_core.domain.errors import PolicyError, UsageError
from tests.factories import TOY

ROOT = Path(registration.__file__).parents[1]


def told(form: type[Any], values: dict[str, Any]) -> str:
    """Return the errors that Prefect's server finds in a form's values; empty if the values are valid."""
    return "; ".join(error.message for error in validate(values, form.model_json_schema()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy", "gpt-5"),
        ("policy", "openai:"),
        ("agent", "somebody"),
        ("budget", "rollouts=many"),
        ("budget", "rollouts=5,"),
        ("budget", "euros=5"),
        ("siblings", 9),
        ("generations", 0),
        ("levers", "both"),
        ("sandbox", "no"),
        ("seed", "x"),
        ("agent_timeout", 0),
        ("task", ""),
        ("colour", "blue"),
    ],
)
def test_invalid_value_is_an_error_in_the_form(name: str, value: Any) -> None:
    assert told(EvolveForm, {"task": "denoising", name: value})


@pytest.mark.parametrize("budget", ["", "rollouts=5000", "tokens=2e6,dollars=5.50", "gpu_hours=1,hours=2"])
def test_budget_that_the_form_takes_can_be_parsed(budget: str) -> None:
    assert not told(EvolveForm, {"task": "denoising", "budget": budget})
    Budget.parse(budget)


def test_form_makes_the_configuration_of_the_command_line() -> None:
    config = EvolveForm(
        task=TOY, policy="scripted", seed=7, rollouts=3, budget="rollouts=900", levers="harness", agent_timeout=60
    ).config()
    assert (config.task, config.seed, config.rollouts, config.levers) == (TOY, 7, 3, ("harness",))
    assert config.generations == 2, "the task's plan"
    assert config.budget.rollouts == 900 and config.sandbox == "strict"
    assert config.agent_timeout == 60
    plan = ArmsForm(task=TOY, policy="scripted", arms="harness,agent", seeds=2, agent_timeout=60).plan()
    assert plan.config.agent_timeout == 60
    assert plan.arms == ("harness", "agent") and len(plan.members) == 4


def test_seed_of_the_form_is_a_number_with_a_default() -> None:
    seed = EvolveForm.model_json_schema()["properties"]["seed"]
    assert (seed["type"], seed["default"]) == ("integer", 0)
    assert EvolveForm(task=TOY, policy="scripted").config().seed == 0


def test_missing_task_or_key_is_an_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UsageError):
        EvolveForm(task="no-such-task").config()
    with pytest.raises(PolicyError, match="no key"):
        EvolveForm(task=TOY, policy="anthropic:somebody").config()


def test_every_field_has_a_title_and_every_form_is_closed() -> None:
    for form in (EvolveForm, GenerationForm, ArmsForm, ReportForm):
        schema = form.model_json_schema()
        assert schema["additionalProperties"] is False
        assert all(field.get("title") for field in schema["properties"].values())


def test_prefect_yaml_names_flows_there_are_and_parameters_they_take() -> None:
    rows = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {row["name"] for row in rows} >= {"denoising", "lawbench", "trimul", "retry-or-extend", "compare", "report"}
    for row in rows:
        module, _, name = row["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        given = row.get("parameters")
        if given:
            assert is_valid(given, flow.parameters.model_dump_for_openapi()), row["name"]
        assert row["work_pool"]["name"] == registration.POOL and registration.TAG in row["tags"]
        assert not any(schedule["active"] for schedule in row.get("schedules", ())), "an example, switched off"


def test_every_task_that_ships_has_a_deployment() -> None:
    rows = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    shipped = {file.parent.name for file in (ROOT / "tasks").glob("*/task.toml")}
    assert shipped == {
        row["parameters"]["settings"]["task"] for row in rows if row["entrypoint"] == registration.EVOLVE
    }

"""A setting is a field of the configuration; its option, form field and help are made from that field."""

import inspect
from typing import Annotated, Any

import pytest
from pydantic import Field, create_model
from typer.testing import CliRunner

from flows.deployments import EvolveForm, form_fields, titled
from sia_core import evolve
from sia_core.api import run as api
from sia_core.cli import run as verb
from sia_core.cli.main import app
from sia_core.cli.settings import parameter
from sia_core.domain.config import RunConfig
from sia_core.domain.hashing import digest_json
from sia_core.domain.setting import Setting, option, options
from sia_core.domain.task import Task
from sia_core.report.command import run_command
from tests.factories import TOY

PLAN = Task.load(TOY).config.plan.model_dump()


class Wider(RunConfig):
    """The configuration with an additional field."""

    patience: Annotated[int, Setting(title="Patience")] = Field(default=3, ge=1, le=9)
    """Generations without a gain that are waited for."""


def test_new_field_is_an_option_a_form_field_and_part_of_the_printed_command() -> None:
    made = parameter(option(Wider, "patience"))
    (kind, typer_option) = made.annotation.__metadata__[0], made.default
    assert made.name == "patience" and typer_option == 3
    assert (kind.min, kind.max, kind.help) == (1, 9, "Generations without a gain that are waited for.")

    form: Any = create_model("Form", **form_fields(Wider, titled(Wider)))
    field = form.model_json_schema()["properties"]["patience"]
    assert (field["title"], field["minimum"], field["maximum"], field["default"]) == ("Patience", 1, 9, 3)

    assert "--patience 5" in run_command(Wider(task=TOY, **PLAN, patience=5))
    assert "patience" not in run_command(Wider(task=TOY, **PLAN))


def test_every_setting_has_a_description_that_stands_alone() -> None:
    for name, field in RunConfig.model_fields.items():
        text = field.description or ""
        assert text[:1].isupper() and text.rstrip().endswith("."), name
        assert not text.startswith(("What", "Whether", "Of ", "As ", "That", "Those")), name


def test_signature_of_evolve_lists_every_option() -> None:
    assert {one.name for one in options(RunConfig)} <= set(inspect.signature(evolve).parameters)


def test_evolve_begins_from_the_branch_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[RunConfig] = []
    monkeypatch.setattr(api, "_run", lambda config, _: found.append(config))
    asked: list[tuple[str, int | None]] = []

    def branch(config: RunConfig, text: str, seed: int | None) -> RunConfig:
        asked.append((text, seed))
        return config.model_copy(update={"branch_from": text})

    monkeypatch.setattr("sia_core.loop.create_run.branch", branch)
    evolve(TOY, policy="scripted", branch_from="toy-abc:2")
    assert asked == [("toy-abc:2", None)] and found[0].branch_from == "toy-abc:2"


def test_command_line_python_and_form_make_the_same_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[RunConfig] = []
    monkeypatch.setattr(verb, "print_plan", found.append)
    monkeypatch.setattr(api, "_run", lambda config, _: found.append(config))
    words = ["--policy", "scripted", "--seed", "7", "--levers", "harness", "--sandbox", "none", "--siblings", "2"]
    done = CliRunner().invoke(app, ["run", TOY, *words, "--budget", "rollouts=900", "--dry-run"])
    assert done.exit_code == 0, done.output
    given: dict[str, Any] = {"policy": "scripted", "seed": 7, "levers": "harness", "sandbox": "none", "siblings": 2}
    evolve(TOY, **given, budget="rollouts=900")
    found.append(EvolveForm(task=TOY, **given, budget="rollouts=900").config())
    assert len({digest_json(one.model_dump(mode="json")) for one in found}) == 1 and len(found) == 3

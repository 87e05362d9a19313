"""Forms of a task on the command line, and in what a run records."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.domain.errors import TaskError, UsageError
from sia_core.domain.task import Task
from sia_core.loop.configure import build_config
from tests.factories import TOY

FORM = (
    '\n[forms.rich]\nharness = "rich/harness"\n[forms.rich.plan]\nproblems = 2\n[forms.rich.sampling]\nmax_tokens = 9\n'
)
SETTINGS: dict[str, Any] = {"policy": "scripted", "agent": "rules", "agent_dollars": None, "meta": False}


@pytest.fixture
def two_forms(tmp_path: Path) -> Path:
    """The toy task with a second form."""
    copy = tmp_path / "task"
    shutil.copytree(TOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(copy / "harness", copy / "rich" / "harness")
    with (copy / "task.toml").open("a") as file:
        file.write(FORM)
    return copy


def test_form_overrides_the_tables_of_the_task(two_forms: Path) -> None:
    plain, rich = Task.load(two_forms), Task.load(f"{two_forms}:rich")
    assert (plain.config.plan.problems, rich.config.plan.problems) == (4, 2)
    assert (plain.config.plan.rollouts, rich.config.plan.rollouts) == (4, 4)
    assert (rich.config.harness, rich.sampling.max_tokens, rich.sampling.temperature) == ("rich/harness", 9, 1.0)
    assert rich.where == f"{two_forms}:rich" and Task.load(rich.where).config == rich.config
    (two_forms / "rich" / "harness" / "agent.py").write_text("# another harness\n")
    assert Task.load(two_forms).digest == rich.digest == plain.digest


def test_run_records_the_form(two_forms: Path) -> None:
    config = build_config(f"{two_forms}:rich", levers="", sandbox="none", **SETTINGS)
    assert (config.task, config.problems) == (f"{two_forms}:rich", 2)
    config = build_config("denoising:full", levers="", sandbox="none", **SETTINGS)
    assert config.task == "denoising:full"


def test_unknown_form_names_the_known_ones(two_forms: Path) -> None:
    with pytest.raises(UsageError, match="no form 'poor'") as caught:
        Task.load(f"{two_forms}:poor")
    assert "rich" in caught.value.hint


def test_task_directory_may_have_a_colon_in_its_name(two_forms: Path, tmp_path: Path) -> None:
    moved = two_forms.rename(tmp_path / "task:two")
    assert Task.load(moved).form == ""
    assert Task.load(f"{moved}:rich").form == "rich"


def test_form_that_does_not_fit_is_refused(two_forms: Path) -> None:
    with (two_forms / "task.toml").open("a") as file:
        file.write("[forms.odd]\ntemperature = 3\n")
    assert Task.load(two_forms).config.plan.problems == 4
    with pytest.raises(TaskError, match="temperature"):
        Task.load(f"{two_forms}:odd")


def test_full_form_has_a_plan_of_its_own() -> None:
    plain = CliRunner().invoke(app, ["run", "denoising", "--dry-run", "--policy", "scripted"])
    full = CliRunner().invoke(app, ["run", "denoising:full", "--dry-run", "--policy", "scripted"])
    assert (plain.exit_code, full.exit_code) == (0, 0), full.output
    assert "8 problems x 8" in plain.output and "6 problems x 4" in full.output

"""Define deployments: the flows that Prefect starts from a form, and the forms.

A deployed flow runs in a fresh process of a worker. Each record carries the id of its flow run, so that a retry finds
the record of the first try.

A form is a pydantic model, whose JSON schema the Prefect UI shows and the server checks, so that most errors are
refused in the form. Errors that only the task's files reveal are reported by the run, before anything is spent. The
settings come from the fields of `RunConfig` that have a title.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import flow, runtime
from prefect.client.orchestration import get_client
from pydantic import BaseModel, ConfigDict, Field, create_model

from flows import crashed_runs
from flows.comparison import go_through
from flows.progress import shown
from flows.run import closing, keep_report, see_through
from sia_core import app
from sia_core.domain.config import RunConfig
from sia_core.domain.setting import SHARED, Option, option
from sia_core.loop import create_run
from sia_core.loop.configure import build_config
from sia_core.loop.session import reporter
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag
from sia_core.search.arms import ARMS, ArmsPlan, plan_arms

_RUN = Field(title="Run", min_length=1, description="Name of a run, or its beginning; see sia status.")


def form_fields(model: type[RunConfig], names: Iterable[str]) -> dict[str, Any]:
    """Make the fields of a form for these settings, for `pydantic.create_model`."""
    return {one.name: (_kind(one), _field(one)) for one in (_on_form(model, name) for name in names)}


def titled(model: type[RunConfig]) -> list[str]:
    """List the settings on the form of a run."""
    return [name for name in model.model_fields if option(model, name).setting.title]


def shared(model: type[RunConfig]) -> list[str]:
    """List the settings on the form of a comparison."""
    return [name for name in titled(model) if name in ("task", *SHARED)]


def _on_form(model: type[RunConfig], name: str) -> Option:
    """Describe a setting with its own default if any: no branch, which could change the default, is on a form."""
    one, field = option(model, name), model.model_fields[name]
    own = one.setting.is_late and not field.is_required() and one.setting.form is None  # The policy's levers stay late.
    return replace(one, default=field.default) if own else one


def _kind(one: Option) -> Any:
    if one.setting.form is not None or one.name == "task":
        return one.setting.form or str
    return one.kind if one.default is not None else one.kind | None


def _field(one: Option) -> Any:
    description = " ".join(one.description.split())
    rules: dict[str, Any] = {"ge": one.low, "le": one.high, "pattern": one.setting.pattern or None}
    rules = {name: value for name, value in rules.items() if value is not None}
    if one.name == "task":
        return Field(title=one.setting.title, description=description, min_length=1)
    return Field(default=one.default, title=one.setting.title, description=description, **rules)


class EvolveForm(create_model("_Settings", **form_fields(RunConfig, titled(RunConfig)))):  # type: ignore[misc]
    """New run of a task."""

    model_config = ConfigDict(extra="forbid", title="Run")

    def config(self) -> RunConfig:
        """Build the run's configuration.

        Raises:
            SiaError: see `build_config`.
        """
        return build_config(**self.model_dump())


class GenerationForm(BaseModel):
    """Generations of a run to repeat or add."""

    model_config = ConfigDict(extra="forbid", title="Generation")

    run: str = _RUN
    generation: int = Field(
        ge=1,
        title="Generation",
        description="An existing generation is repeated with all later ones; a later one extends the run.",
    )
    fork: bool = Field(
        default=False,
        title="Fork",
        description="Leave the run unchanged; continue in a child run with your changes.",
    )


class ReportForm(BaseModel):
    """Run whose report is written again."""

    model_config = ConfigDict(extra="forbid", title="Report")

    run: str = _RUN


class ArmsForm(create_model("_Compared", **form_fields(RunConfig, shared(RunConfig)))):  # type: ignore[misc]
    """New comparison on a task."""

    model_config = ConfigDict(extra="forbid", title="Comparison")

    arms: str = Field(
        default="",
        title="Arms",
        pattern="^$|^({0})(,({0}))*$".format("|".join(ARMS)),
        description="Some of harness,weights,alternate,rules,agent,best-of-n; all if left out.",
    )
    seeds: int = Field(default=3, ge=1, title="Seeds", description="Runs of each arm, each with its own seed.")

    def plan(self) -> ArmsPlan:
        """Plan the comparison.

        Raises:
            SiaError: see `build_config` and `plan_arms`.
        """
        config = build_config(**self.model_dump(exclude={"arms", "seeds"}))
        return plan_arms(config, [name.strip() for name in self.arms.split(",") if name.strip()], self.seeds)


@flow(name="evolve", flow_run_name="{settings.task}", persist_result=False)
def evolve_task(settings: EvolveForm) -> None:
    """Start a run of a task and finish it; a retry resumes the same run."""
    with _prepared(settings.task):
        run = _begun(settings)
        _call(run.name)
        with closing(run):
            see_through(run.name)


@flow(name="generation", flow_run_name="{settings.run}/{settings.generation}", persist_result=False)
def redo_generation(settings: GenerationForm) -> None:
    """Repeat or add generations of a run, and finish the run."""
    with _prepared(settings.run):
        run = app.rerun(settings.run, settings.generation, forked=settings.fork, origin=_origin())
        create_run.prepare_again(run.config, reporter.get(), run)
        _call(f"{run.name} from {settings.generation}")
        with closing(run):
            see_through(run.name)


@flow(name="arms", flow_run_name="{settings.task}", persist_result=False)
def compare_arms(settings: ArmsForm) -> None:
    """Compare settings of the levers on a task; a retry resumes the same comparison."""
    with _prepared(settings.task):
        record, origin = create_run.record(), _origin()
        found = record.search(f"tags.`{Tag.ORIGIN}` = '{origin}' and tags.`{Tag.KIND}` = 'arms'")
        if found:
            comparison = ArmsRecord(record, found[0])
            app.prepare_comparison(comparison, reporter.get())
        else:
            comparison = app.compare(settings.plan(), reporter.get(), origin={Tag.ORIGIN: origin})
        _call(comparison.name)
        with closing(comparison):
            go_through(comparison.name)


@flow(name="report", flow_run_name="{settings.run}", persist_result=False)
def report_run(settings: ReportForm) -> None:
    """Write the report of a run again, finished or not, and link to it."""
    with _prepared(settings.run):
        run = create_run.record().open(settings.run)
        _call(run.name)
        keep_report(run)


def _begun(settings: EvolveForm) -> RunRecord:
    """Return the run that an earlier try of this flow run began, or start one."""
    record, origin = create_run.record(), _origin()
    for found in record.search(f"tags.`{Tag.ORIGIN}` = '{origin}' and tags.`{Tag.KIND}` = 'evolution'"):
        run = RunRecord(record, found)
        if run.begun:
            create_run.prepare_again(run.config, reporter.get(), run)
            return run
    return app.start(settings.config(), reporter.get(), origin={Tag.ORIGIN: origin})


@contextmanager
def _prepared(about: str) -> Iterator[None]:
    """Do what the command line does before any flow, and show progress within."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    crashed_runs.mark()
    crashed_runs.reap()
    with shown(about):
        yield


def _origin() -> str:
    return str(runtime.flow_run.id)


def _call(name: str) -> None:
    """Name the flow run after its run."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(runtime.flow_run.id, name)

"""The first harness, where the Meta-Agent writes it: validated, then planted as the seed of the lineage."""

from importlib.resources import files

from flows.levers import validate_first
from flows.session import Session
from flows.start import plant_seed
from sia_core.agents.meta import Brief
from sia_core.agents.protocol import NoDecisionError
from sia_core.agents.quote import one_line
from sia_core.errors import HarnessError
from sia_core.report.decided import short_spec
from sia_core.task import Task

_NAMES = 200
"""Characters of the names of files that are told."""


def write_first(session: Session) -> None:
    """Let the Meta-Agent write the seed harness; a no-op when there is one.

    Raises:
        HarnessError: it wrote none that passes validation.
    """
    if session.run.phase("start") is not None:
        return
    assert session.agents.meta is not None
    session.reporter.say("the Meta-Agent writes the first harness")
    brief = Brief(
        task=session.task.description,
        metric=session.task.config.metric,
        problems=session.task.problems("train"),
        sdk=(files("sia_core.engine") / "sdk" / "sia_sdk.py").read_text(),
        seed=session.config.seed,
        references=_references(session.task),
    )
    try:
        harness = session.agents.meta.write(brief, lambda found: validate_first(session, found))
    except NoDecisionError as error:
        raise HarnessError(
            f"the Meta-Agent wrote no harness that can be used: {error}",
            where=session.run.name,
            hint="read agent/conversation.json of the run in MLflow; try another model, or write a harness yourself",
        ) from error
    plant_seed(session.run, harness)
    names = one_line(", ".join(sorted(harness.files)), _NAMES)
    session.reporter.say(f"the first harness was written by {short_spec(session.agents.meta.spec)}: {names}")


def _references(task: Task) -> dict[str, str]:
    """Texts under references/ of the task's directory."""
    folder = task.path / "references"
    return {
        file.relative_to(folder).as_posix(): file.read_text(errors="replace")
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }

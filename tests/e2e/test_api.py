"""The loop from Python."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import sia_core
from sia_core import Result, Task
from sia_core.api.result import read_result
from sia_core.record.phases import SealedDone
from tests.e2e.conftest import TOY, Finished, Sia

SCRIPT = """
import asyncio
from sia_core import Task, evolve

async def notebook():
    # As in a notebook: an event loop is running already.
    return evolve(Task.load({toy!r}), policy="scripted", seed=1, generations=1, budget="rollouts=5000")

result = asyncio.run(notebook())
print("RUN", result.run)
print("GAIN", result.gain.low > 0, result.improved, result.steps[1].lever, len(result.harness))
print(result.export({out!r}).run)
try:
    evolve({toy!r}, policy="scripted", generations=0)
except Exception as error:
    print("REFUSED", type(error).__name__, error)
"""


def test_finished_run_can_be_read_in_python(finished: Finished) -> None:
    run = finished.sia.run()
    result = read_result(run)
    test = run.phase(SealedDone)
    assert test is not None
    assert (result.run, result.task, result.winner) == (run.name, "toy", 1)
    assert result.sealed.mean == test.final.mean and result.gain.low == test.gain.low
    assert result.improved and result.adapter is None
    assert [step.lever for step in result.steps] == ["seed", "harness", "stop"]
    assert result.steps[0].score is not None and result.steps[1].gain is not None
    assert result.steps[1].promoted and not result.steps[2].promoted
    assert b"menu" in result.harness["harness.toml"]
    assert run.name in str(result) and "sealed test" in str(result)
    with pytest.raises(AttributeError):
        result.winner = 0  # type: ignore[misc]


def test_result_html_escapes_texts_of_agents(finished: Finished) -> None:
    result = read_result(finished.sia.run())
    hostile = {**result.rows[0], "lever": "<script>alert(1)</script>"}
    object.__setattr__(result, "rows", (hostile,))
    shown = result._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<table>" in shown


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is optional")
def test_result_plots_scores_by_generation(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    axes = read_result(finished.sia.run()).plot()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["promoted", "sealed test: seed, final"]  # The no-op was played at no gate.
    assert [label.get_text() for label in axes.get_xticklabels()] == ["seed", "1", "2", "sealed"]


def test_public_names_can_be_imported() -> None:
    for name in sia_core.__all__:
        assert getattr(sia_core, name, None) is not None, name
    assert sia_core.Result is Result and sia_core.Task is Task
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = getattr(sia_core, "nothing")  # noqa: B009


@pytest.mark.slow
def test_script_completes_a_run_within_an_event_loop(sia: Sia, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(toy=str(TOY), out=str(tmp_path / "winner")))
    done = subprocess.run(
        [sys.executable, str(script)], env=sia.environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = sia.run()
    assert f"RUN {run.name}" in done.stdout and "GAIN True True harness 2" in done.stdout
    assert "REFUSED UsageError" in done.stdout and "generations" in done.stdout
    assert run.status == "FINISHED" and (tmp_path / "winner" / "README.md").is_file()

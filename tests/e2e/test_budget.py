"""A run that comes to the end of its budget: by its rule, or in the middle of a generation."""

import pytest

from sia_core.record.phases import SealedDone
from tests.e2e.conftest import TOY, Finished, Sia
from tests.e2e.test_resume import outcome


@pytest.mark.slow
def test_generation_that_does_not_fit_the_budget_is_not_started(sia: Sia) -> None:
    output = sia("run", str(TOY), "--policy", "scripted", "--no-ui", "--levers", "harness", "--budget", "rollouts=400")
    run = sia.run()
    assert (run.status, len(run.nodes())) == ("FINISHED", 2)
    assert run.phase(SealedDone) is not None
    assert run.tags["sia.stopped"] == "budget"
    assert "no room for generation 2 and the sealed test (rollouts: " in run.tags["sia.stopped_because"]
    assert "no room for generation 2" in output and "of 400 rollouts" in output


@pytest.mark.slow
def test_run_stopped_by_its_budget_resumes_with_a_larger_one(sia: Sia, finished: Finished) -> None:
    # Less than the first generation takes on any machine: it plays 150 rollouts.
    output = sia(*finished.words, "--budget", "hours=0.0002", code=11)
    run = sia.run()
    assert "hours are spent" in output and f"sia resume {run.name} --budget hours=0.0004" in output
    assert run.status == "FAILED"
    output = sia("resume", run.name, "--no-ui", "--budget", "hours=2")
    assert "of 2 hours" in output
    assert outcome(sia) == outcome(finished.sia)

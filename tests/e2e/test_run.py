"""The loop end to end on the toy task."""

import json
import re
from pathlib import Path

import pytest

from sia_core.domain.json_data import read
from sia_core.domain.lineage import LadderReport
from sia_core.record.beacon import read_progress
from sia_core.record.phases import ExecuteDone, SealedDone, StopDone
from tests.e2e.conftest import TOY, Api, Finished, Sia, toy_of_two_knobs
from tests.report.pages import check_inert, parse


def test_harness_lever_improves_the_toy_task(finished: Finished, api: Api) -> None:
    sia, output = finished.sia, finished.output
    run = sia.run()

    nodes = run.nodes()
    assert [node.lever for node in nodes[:2]] == ["seed", "harness"]
    assert nodes[1].decision is not None
    assert nodes[1].decision.knobs == {"menu": "rich"}
    assert nodes[1].promoted
    assert nodes[1].gate is not None
    assert nodes[1].gate.gain.bound > 0
    assert run.harness(nodes[1].candidate.harness).knobs["menu"] == "rich"

    # The toy harness declares a knob that it never reads: moving it is named for what it is before it is decided on.
    decision = nodes[2].decision
    assert decision is not None and decision.lever == "stop", nodes[2]
    (refused,) = decision.refused
    assert refused.startswith("harness: activation: no-op: the changed lines did not run in any of 4 rollouts")
    first, second = run.generations()
    report = read(LadderReport, json.loads(first.get_bytes("ladder.json") or b""))
    assert [rung.rung for rung in report.rungs] == [
        *("static", "import", "contract", "smoke", "activation", "minibatch")
    ]
    assert report.failure == "" and second.get_bytes("ladder.json") is None
    (draft,) = json.loads(second.get_bytes("drafts.json") or b"")["drafts"]
    assert draft["failure"] in refused and second.rollouts(f"draft_{draft['harness']}")

    test = run.phase(SealedDone)
    assert test is not None
    assert test.node == 1
    assert test.gain.low > 0
    # The expected worth is that of a uniform pick: (0 + .3) / 2 before, (0 + .3 + 1 + .1) / 4 after.
    assert test.seed.low < 0.15 < test.seed.high
    assert test.final.low < 0.35 < test.final.high
    assert test.report["seed"] == (("rollouts", test.seed.rollouts), ("split", "test"))
    assert set(test.report) == {"final", "seed"} and "figure" in output

    assert run.status == "FINISHED"
    assert "sealed test" in output
    assert run.name in output
    assert "[31m" not in output

    # Every phase left its artifacts, and every verifier score is in the record.
    generation = run.generations()[0]
    rollouts = generation.rollouts("train")
    assert len(rollouts) == 4 * 4
    assert {rollout.unit.split for rollout in rollouts} == {"train"}
    assert all(rollout.verdict is not None and rollout.failure is None for rollout in rollouts), rollouts[0]
    # The gate ended at the look that decided; each problem was played by both sides.
    played = [len(generation.rollouts(name)) for name in ("gate_parent", "gate_child")]
    assert played == [nodes[1].gate.gain.problems * 4] * 2
    assert nodes[1].gate.looks <= nodes[1].gate.most_looks == 3
    stop = run.phase(StopDone)
    assert stop is not None and stop.rule == "agent"
    assert generation.tags["sia.lever"] == "harness"

    # The run as one page, what it ran on, and the last word of its driver are in the record.
    page = (run.get_bytes("report.html") or b"").decode()
    assert f"sia report {run.name}" in output
    assert run.name in page and "Improved:" in page and "finished" in page
    check_inert(parse(page))
    assert (run.get_json("environment.json") or {})["cpus"] >= 1
    assert read_progress(run.tags) is not None

    # Prefect knows the flow, its sub-flows, tasks and artifacts.
    flow_run = run.tags["sia.prefect_run"]
    state = api(f"/flow_runs/{flow_run}")
    assert (state["name"], state["state_type"]) == (run.name, "COMPLETED")
    artifacts = api("/artifacts/filter", {})
    assert {artifact["type"] for artifact in artifacts} >= {"table", "markdown", "progress"}
    assert any(f"{run.run_id}/artifacts/report.html" in str(artifact["data"]) for artifact in artifacts)

    status = sia("status")
    assert run.name in status
    assert re.search(r"FINISHED\s+2/2", status)
    assert "menu=rich" in sia("status", run.name)
    assert "is finished" in sia("resume", run.name, code=7)


@pytest.mark.slow
def test_run_without_levers_only_samples(sia: Sia) -> None:
    sia("run", str(TOY), "--policy", "scripted", "--no-ui", "--levers", "", "--generations", "1")
    run = sia.run()
    assert [node.lever for node in run.nodes()] == ["seed", "none"]
    test = run.phase(SealedDone)
    assert test is not None
    assert test.node == 0
    assert test.gain.mean == 0


def test_weights_alone_on_an_untrainable_policy_are_refused_before_the_run(sia: Sia) -> None:
    before = (sia.home / "mlflow.db").read_bytes()
    code, output = sia.fails("run", str(TOY), "--policy", "scripted", "--no-ui", "--levers", "weights")
    assert code == 2 and "cannot be trained" in output and "--levers harness" in output
    assert (sia.home / "mlflow.db").read_bytes() == before


def test_dry_run_spends_nothing(sia: Sia) -> None:
    before = (sia.home / "mlflow.db").read_bytes()
    output = sia("run", str(TOY), "--policy", "scripted", "--dry-run", "--generations", "3")
    assert "3 generations" in output
    assert re.search(r"at most \d+ rollouts", output)
    assert [file.name for file in sia.home.iterdir()] == ["mlflow.db"]
    assert (sia.home / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_siblings_are_tried_side_by_side(sia: Sia, tmp_path: Path) -> None:
    task = toy_of_two_knobs(tmp_path)
    options = ("--levers", "harness", "--generations", "2", "--siblings", "2", "--rollouts", "2", "--no-ui")
    output = sia("run", str(task), "--policy", "scripted", "--threads", "1", *options)
    run = sia.run()
    nodes = run.nodes()
    assert [node.index for node in nodes] == list(range(len(nodes)))
    first = [node for node in nodes if node.generation == 1]
    assert len(first) == 2 and {node.parent for node in first} == {0}
    asked = [node.decision.knobs for node in first if node.decision]
    assert {"menu": "rich"} in asked and {"attempts": 2} in asked
    # The wider menu is better: it comes last, and is what generation 2 executes.
    assert first[-1].promoted and first[-1].decision is not None and first[-1].decision.knobs == {"menu": "rich"}
    assert "(0.05 over all)" in (first[-1].gate.reason if first[-1].gate else "")
    execute = run.generations()[1].phase(ExecuteDone)
    assert execute is not None and execute.node == 2
    assert "1 (node 2)" in output

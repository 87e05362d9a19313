"""Deployments on a real Prefect server with a real worker: start from the form, die twice, retry, end undisturbed."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.registration import ZOMBIES
from tests.e2e.conftest import TOY, Api, Finished, Sia, make_sia, processes_of, toy_of_two_knobs
from tests.e2e.test_resume import outcome, rollouts_done, wait_until

ROOT = TOY.parents[1]
RETRY = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}, "force": False}
"""Request that the Retry button of the Prefect UI sends."""


def refusal(api: Api, path: str, body: Any) -> str:
    """Return the server's message about a request that the server refuses."""
    with pytest.raises(urllib.error.HTTPError) as error:
        api(path, body)
    return error.value.read().decode()


def state_of(api: Api, flow_run: str) -> str:
    return str(api(f"/flow_runs/{flow_run}")["state_type"])


def wait_for_state(api: Api, flow_run: str, *wanted: str, seconds: float = 600) -> None:
    """Poll slowly, since the machine has other work to do."""
    deadline = time.monotonic() + seconds
    while (state := state_of(api, flow_run)) not in wanted:
        assert time.monotonic() < deadline, f"{state} after {seconds} s"
        time.sleep(0.5)


def kill_child(api: Api, flow_run: str) -> None:
    """Kill the process of a flow run as the kernel does when memory runs out."""
    os.kill(api(f"/flow_runs/{flow_run}")["labels"]["sia.process.pid"], signal.SIGKILL)


@contextmanager
def working(sia: Sia, log: Path) -> Iterator[psutil.Process]:
    """A worker that ends with the block at the latest. Its output is larger than a pipe holds."""
    with log.open("a") as out:
        worker = subprocess.Popen(sia.command("worker"), env=sia.environment, stdout=out, stderr=out)
    try:
        yield psutil.Process(worker.pid)
    finally:
        worker.terminate()
        worker.wait(timeout=120)


def kill_all(worker: psutil.Process) -> None:
    """Kill the worker and what the worker started, as when the machine is switched off."""
    for process in [*worker.children(recursive=True), worker]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
def test_run_from_the_form_dies_twice_is_retried_and_ends_as_undisturbed(
    sia: Sia, api: Api, prefect_api: str, empty_store: Path, tmp_path: Path
) -> None:
    task = toy_of_two_knobs(tmp_path)
    (tmp_path / "undisturbed").mkdir()
    undisturbed = make_sia(tmp_path / "undisturbed", prefect_api, empty_store)
    undisturbed("run", str(task), "--policy", "scripted", "--no-ui", "--seed", "1")
    expected, total = outcome(undisturbed), rollouts_done(undisturbed)
    assert "evolve/toy" in sia("deploy", str(task))
    new = f"/deployments/{api('/deployments/name/evolve/toy')['id']}/create_flow_run"
    settings = {"task": str(task), "policy": "scripted", "seed": 1}
    log = tmp_path / "worker.log"

    # The form is checked before anything runs.
    assert "gpt" in refusal(api, new, {"parameters": {"settings": {**settings, "policy": "gpt"}}})
    assert "siblings" in refusal(api, new, {"parameters": {"settings": {**settings, "siblings": 99}}})

    flow_run = api(new, {"parameters": {"settings": settings}})["id"]
    with working(sia, log) as worker:
        wait_until(lambda: rollouts_done(sia) >= 20)
        kill_child(api, flow_run)
        wait_for_state(api, flow_run, "CRASHED")

        before = rollouts_done(sia)
        assert api(f"/flow_runs/{flow_run}/set_state", RETRY)["status"] == "ACCEPT"
        wait_until(lambda: rollouts_done(sia) >= before + 20)
        kill_all(worker)

    # Nobody was left to say so, and Prefect takes it for running. The next start on this machine knows better.
    with working(sia, log):
        wait_for_state(api, flow_run, "CRASHED")
        assert api(f"/flow_runs/{flow_run}/set_state", RETRY)["status"] == "ACCEPT"
        wait_for_state(api, flow_run, "COMPLETED", "FAILED")
        found, played = outcome(sia), rollouts_done(sia)

        more = api("/deployments/name/generation/retry-or-extend")["id"]
        asked = {"run": sia.run().name, "generation": 3}
        extension = api(f"/deployments/{more}/create_flow_run", {"parameters": {"settings": asked}})["id"]
        wait_for_state(api, extension, "COMPLETED", "FAILED")

    output = log.read_text()
    ended = api(f"/flow_runs/{flow_run}")
    assert ended["state_type"] == "COMPLETED", output
    assert ended["run_count"] == 3
    assert ended["name"] == sia.run().name  # And there is one run.
    assert found == expected and played == total
    _check_artifacts(api, sia.run().name)

    assert api(f"/flow_runs/{extension}")["state_type"] == "COMPLETED", output
    longer = outcome(sia)
    assert longer["nodes"][:3] == found["nodes"] and len(longer["nodes"]) == 4
    assert sia.run().config.generations == 3 and sia.run().status == "FINISHED"
    wait_until(lambda: not processes_of(sia.home), seconds=30)


@pytest.mark.slow
def test_deploying_twice_makes_one_deployment(sia: Sia, api: Api) -> None:
    def registered() -> dict[str, Any]:
        rows = api("/deployments/filter", {"work_pools": {"name": {"any_": ["sia"]}}})
        return {row["name"]: shown(row) for row in rows}

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        same = ("entrypoint", "parameters", "tags", "work_pool_name", "enforce_parameter_schema")
        return {
            **{name: row[name] for name in (*same, "parameter_openapi_schema")},
            "schedules": [(one["schedule"]["cron"], one["active"]) for one in row["schedules"]],
        }

    sia("deploy", "--limit", "3")
    assert api("/work_pools/sia")["concurrency_limit"] == 3 and api("/work_pools/sia")["type"] == "process"
    ours = registered()
    assert {"denoising", "lawbench", "trimul", "retry-or-extend", "compare", "report"} <= set(ours)
    assert ours["denoising"]["schedules"] == [("0 2 * * 0", False)]
    sia("deploy")  # Again, over what is there.
    assert registered() == ours
    watches = [one for one in api("/automations/filter", {}) if one["name"] == ZOMBIES]
    assert len(watches) == 1 and watches[0]["enabled"]
    assert watches[0]["trigger"]["within"] >= 3 * 180, "three heartbeats of Prefect's default"


@pytest.mark.slow
def test_report_is_made_again_and_linked(finished: Finished, api: Api) -> None:
    run = finished.sia.run()

    def links() -> int:
        return len(api("/artifacts/filter", {"artifacts": {"key": {"any_": [f"{run.name}-report"]}}}))

    before = links()
    code = "from flows.deployments import ReportForm, report_run; "
    code += f"report_run(ReportForm(run={run.name[:-1]!r}))"
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=finished.sia.environment, check=True, capture_output=True, timeout=240)
    assert links() == before + 1
    assert run.name in (run.get_bytes("report.html") or b"").decode()


def _check_artifacts(api: Api, run: str) -> None:
    shown = {artifact["key"]: artifact for artifact in api("/artifacts/latest/filter", {}) if artifact["key"]}
    mine = {key.removeprefix(f"{run}-"): artifact for key, artifact in shown.items() if key.startswith(run)}
    assert set(mine) >= {"mlflow", "lineage", "decision", "now"}
    assert "menu=rich" in mine["lineage"]["data"]
    assert f"{run} in MLflow" in mine["mlflow"]["data"]
    assert mine["decision"]["type"] == "markdown" and "## Generation 3" in mine["decision"]["data"]

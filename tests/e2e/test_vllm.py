"""A whole run on its own vLLM server (a stand-in), which is killed once and serves a trained adapter."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import TOY, Sia
from tests.e2e.test_resume import rollouts_done, wait_until
from tests.engine.test_vllm_server import all_gone


@pytest.mark.slow
def test_run_starts_and_uses_its_own_vllm_server(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    environment = {
        **sia.environment,
        "SIA_VLLM": f"{sys.executable} -m tests.wire.stand_in",
        "SIA_VLLM_ARGS": "--stand-in model",
        "SIA_VLLM_GPUS": "0",
        "STAND_IN_PIDS": str(pids),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    serving = replace(sia, environment=environment)
    options = ("--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    process = serving.start("run", str(TOY), "--policy", f"vllm:{tiny_model}", *options)
    wait_until(lambda: rollouts_done(serving) >= 6 or process.poll() is not None)
    os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "answers again" in output
    run = serving.run()
    child = run.nodes()[1]
    assert child.candidate.adapter is not None
    (generation,) = run.generations()
    rollouts = [one for name in ("train", "gate_parent", "gate_child") for one in generation.rollouts(name)]
    assert all(rollout.failure is None and rollout.trainable for rollout in rollouts)
    trained = generation.rollouts("gate_child")
    assert {turn.adapter for rollout in trained for turn in rollout.turns} == {child.candidate.adapter}
    assert all_gone(pids)


def test_run_without_vllm_prints_the_command_to_install_it(sia: Sia, tiny_model: Path) -> None:
    lacking = replace(sia, environment={**sia.environment, "SIA_VLLM": "no-such-program"})
    output = lacking("run", str(TOY), "--policy", f"vllm:{tiny_model}", "--no-ui", code=5)
    assert "vLLM is not installed" in output and "pip install 'sia[gpu]'" in output

"""vLLM on a CPU: as policy with weights, as server of both wires, started by a run, killed and started again."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import SiaError
from sia_core.policy.local import LocalPolicy
from sia_core.policy.protocol import Policy
from sia_core.weights.spec import UpdateSpec
from sia_core.weights.trainer import Trainer
from tests.e2e.conftest import TOY, Sia, processes_of
from tests.factories import ask
from tests.servers.checks import CHECKS, connect
from tests.servers.conftest import start_vllm
from tests.servers.environments import ensure
from tests.servers.running import Running, free_port

pytestmark = pytest.mark.servers

OPTIONS = ("abc", "abd", "ab", "b", "xyz")
EXACT = 1e-4
"""Greatest difference of logprobs, in fp32, of two programs on one CPU."""


@pytest.fixture(scope="module")
def served(vllm: Running) -> Policy:
    return connect(f"vllm:{vllm.model}@{vllm.url}/v1")


@pytest.fixture(scope="module")
def local(chat_model: Path) -> LocalPolicy:
    return LocalPolicy(f"local:{chat_model}", chat_model, threads=1)


@pytest.fixture(scope="module")
def adapters(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Two adapters with different weights."""
    made = []
    for seed in range(2):
        trainer = Trainer(chat_model, UpdateSpec(None, 1, 1, 0.01, 8, 1.0, seed), None, threads=1)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trainer._parameters.values():
                parameter.normal_(std=0.2)
        made.append(trainer.save(tmp_path_factory.mktemp("adapter") / "checkpoint", []))
    return made


def test_served_model_is_the_local_one(served: Policy, local: LocalPolicy) -> None:
    assert served.probe() == pytest.approx(local.probe(None), abs=EXACT)


def test_served_adapters_are_the_trained_ones_in_any_order(
    served: Policy, local: LocalPolicy, adapters: list[Adapter]
) -> None:
    for adapter in (adapters[0], adapters[1], adapters[0]):
        assert served.probe(adapter) == pytest.approx(local.probe(adapter), abs=EXACT)
    assert served.probe() == pytest.approx(local.probe(None), abs=EXACT)


def test_choices_are_drawn_as_the_local_policy_draws_them(
    served: Policy, local: LocalPolicy, adapters: list[Adapter]
) -> None:
    for seed in range(12):
        request = ask("Which?", OPTIONS, seed=seed, adapter=adapters[0])
        here, there = local.sample(request), served.sample(request)
        assert (there.text, there.output_ids, there.allowed) == (here.text, here.output_ids, here.allowed)
        assert there.logprobs == pytest.approx(here.logprobs, abs=EXACT)


def test_replies_carry_ids_and_the_logprobs_of_the_trainer(served: Policy, local: LocalPolicy) -> None:
    done = served.sample(ask("Go on.", max_tokens=40, seed=3))
    assert done.prompt_ids is not None and done.output_ids is not None and done.logprobs is not None
    ids = (*done.prompt_ids, *done.output_ids)
    scored = local._scheduler.run(lambda: local._engine.score(ids, None))
    assert done.logprobs == pytest.approx(scored[len(done.prompt_ids) - 1 :], abs=EXACT)


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_vllm_passes_over_either_wire(vllm: Running, wire: str, check: Callable[[Policy], object]) -> None:
    suffix = "/v1" if wire == "openai" else ""
    check(connect(f"{wire}:{vllm.model}@{vllm.url}{suffix}"))


def test_run_starts_vllm_trains_promotes_and_exports(sia: Sia, chat_model: Path, tmp_path: Path) -> None:
    environment = {**sia.environment, "SIA_VLLM": str(ensure("vllm") / "vllm"), "SIA_VLLM_GPUS": "0"}
    serving = replace(sia, environment=environment)
    options = ("--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    output = serving("run", str(TOY), "--policy", f"vllm:{chat_model}", *options)
    run = serving.run()
    agreement = run.get_json("serving.json")
    assert agreement["gap"] < EXACT and agreement["error"] < 0.01
    assert "an adapter's effect is served within 0." in output
    child = run.nodes()[1]
    assert child.candidate.adapter is not None and not child.failure
    serving("export", run.name, str(tmp_path / "export"))
    card = (tmp_path / "export" / "README.md").read_text()
    assert "--max-lora-rank" in card and "--dtype float32" in card
    local = replace(serving, environment=sia.environment)
    scored = local("eval", str(tmp_path / "export"), str(TOY), "--policy", f"local:{chat_model}")
    assert "rounds differently" in scored  # vLLM and PyTorch, which agree to the fifth digit.
    assert not [one.pid for one in processes_of(sia.home) if str(chat_model) in " ".join(one.cmdline())]


def test_server_that_is_killed_and_started_again_gets_its_adapters(
    chat_model: Path, adapters: list[Adapter], logs: Path
) -> None:
    port = free_port()
    with start_vllm(chat_model, logs / "first.log", port) as first:
        policy = connect(f"vllm:{chat_model}@{first.url}/v1")
        before = policy.probe(adapters[0])
        os.killpg(first.pid, signal.SIGKILL)
    with pytest.raises(SiaError):
        connect(f"vllm:{chat_model}@{first.url}/v1").probe()
    with start_vllm(chat_model, logs / "second.log", port):
        assert policy.probe(adapters[0]) == pytest.approx(before, abs=EXACT)

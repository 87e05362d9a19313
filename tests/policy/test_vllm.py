"""The vLLM policy, against a server with vLLM's wire format, records the same as the local policy."""

import math
import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, UsageError
from sia_core.policy.local import LocalPolicy
from sia_core.policy.protocol import EndpointError, RejectedRequestError, Request
from sia_core.policy.retry import Retry
from sia_core.policy.spec import parse_spec
from sia_core.policy.trie import Ids
from sia_core.policy.vllm import VllmPolicy
from sia_core.policy.vllm_adapters import Adapters, served_name
from sia_core.policy.vllm_wire import bundles
from sia_core.weights.spec import UpdateSpec
from sia_core.weights.trainer import Trainer
from tests.factories import ask
from tests.wire.vllm import FakeVllm, serve_vllm

OPTIONS = ["abc", "abd", "ab", "b", "xyz"]
SPEC = UpdateSpec(None, 1, 1, 0.01, 4, 1.0, 0)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Six adapters with different weights."""
    made = []
    for seed in range(6):
        trainer = Trainer(tiny_model, SPEC, None, threads=1)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trainer._parameters.values():
                parameter.normal_(std=0.2)
        made.append(trainer.save(tmp_path_factory.mktemp("adapter") / "checkpoint", []))
    return made


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> LocalPolicy:
    return LocalPolicy("local", tiny_model, threads=1)


@pytest.fixture
def server(tiny_model: Path) -> Iterator[FakeVllm]:
    with serve_vllm(tiny_model) as fake:
        yield fake


def connect(server: FakeVllm, waits: list[float] | None = None) -> VllmPolicy:
    """A policy that never really sleeps."""
    spec = parse_spec(f"vllm:{server.base}@{server.url}")
    assert spec is not None
    retry = Retry(attempts=3, sleep=(waits if waits is not None else []).append)
    return VllmPolicy(spec, server.base, spec.key(), retry)


def logits_of(local: LocalPolicy, ids: Ids, adapter: Adapter | None) -> torch.Tensor:
    """Logits after each of the ids, computed in the local policy's own thread."""

    def compute() -> Any:
        with torch.inference_mode(), local._engine._using(adapter) as model:
            return model(input_ids=torch.tensor([ids])).logits[0].double()

    logits: torch.Tensor = local._scheduler.run(compute)
    return logits


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_choices_are_those_of_the_local_policy(
    server: FakeVllm, local: LocalPolicy, adapters: list[Adapter], temperature: float
) -> None:
    policy = connect(server)
    for seed in range(12):
        request = ask("Pick:", OPTIONS, seed=seed, temperature=temperature, adapter=[None, *adapters][seed % 3])
        mine, other = policy.sample(request), local.sample(request)
        assert (mine.text, mine.prompt, mine.prompt_ids, mine.output_ids, mine.allowed, mine.finish) == (
            other.text,
            other.prompt,
            other.prompt_ids,
            other.output_ids,
            other.allowed,
            other.finish,
        )
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert (mine.prompt_tokens, mine.output_tokens) == (other.prompt_tokens, other.output_tokens)


def test_choice_is_a_single_request_and_samples_nothing_on_the_server(server: FakeVllm) -> None:
    policy = connect(server)
    policy.probe()
    before = len(server.asked)
    policy.sample(ask("Pick:", OPTIONS))
    ((_, body),) = server.asked[before:]
    assert len(body["prompt"]) == 2 and body["max_tokens"] == 1 and body["temperature"] == 1.0


def test_branch_with_more_tokens_than_a_request_takes_is_split() -> None:
    paths: dict[Ids, Ids] = {(): tuple(range(300)), (5,): (1, 2), (6,): (2, 3)}
    made = bundles(paths, 128)
    assert all(len(ids) <= 128 for _, ids in made)
    for path, allowed in paths.items():
        assert set(allowed) <= {token for group, ids in made if path in group for token in ids}
    assert made[-1][0] == [(), (5,), (6,)]


@pytest.mark.parametrize("adapted", [False, True])
def test_logprobs_of_replies_are_those_sampled_from(
    server: FakeVllm, local: LocalPolicy, adapters: list[Adapter], adapted: bool
) -> None:
    policy = connect(server)
    for seed, temperature in enumerate([1.0, 0.7, 3.0]):
        adapter = adapters[seed] if adapted else None
        done = policy.sample(ask("abc", seed=seed, temperature=temperature, max_tokens=8, adapter=adapter))
        assert done.prompt_ids is not None and done.output_ids is not None and done.logprobs is not None
        logit_TV = logits_of(local, (*done.prompt_ids, *done.output_ids), adapter)[len(done.prompt_ids) - 1 : -1]
        expected = torch.log_softmax(logit_TV / temperature, -1)
        found = [float(expected[at, token]) for at, token in enumerate(done.output_ids)]
        assert done.logprobs == pytest.approx(found, abs=1e-5)
        assert done.finish == ("stop" if done.output_ids[-1] == 0 else "length")
        assert done.text == local._decode(done.output_ids)


def test_replies_depend_on_the_seed_alone(server: FakeVllm) -> None:
    policy = connect(server)
    texts = [policy.sample(ask("abc", seed=seed, max_tokens=6)).output_ids for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    body = server.posts("/v1/completions")[-1]
    assert (body["top_p"], body["top_k"], body["repetition_penalty"]) == (1.0, 0, 1.0)


def test_frequencies_follow_the_logprobs(server: FakeVllm) -> None:
    policy = connect(server)
    done = [policy.sample(ask("Pick:", ["a", "b"], seed=seed)) for seed in range(200)]
    chances = {one.text: math.exp(sum(one.logprobs or ())) for one in done}
    count = Counter(one.text for one in done)["a"]
    assert abs(count - 200 * chances["a"]) < 4.5 * math.sqrt(200 * chances["a"] * (1 - chances["a"])) + 1


def test_probe_matches_that_of_the_local_policy(server: FakeVllm, local: LocalPolicy, adapters: list[Adapter]) -> None:
    policy = connect(server)
    for adapter in (None, adapters[0], adapters[1]):
        assert policy.probe(adapter) == pytest.approx(local.probe(adapter), abs=1e-5)


def test_adapter_is_loaded_once_and_before_its_first_use(server: FakeVllm, adapters: list[Adapter]) -> None:
    policy = connect(server)
    requests = [ask("abc", seed=seed, max_tokens=2, adapter=adapters[seed % 2]) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(policy.sample, requests))
    assert len(server.posts("/v1/load_lora_adapter")) == 2
    for adapter in adapters[:2]:
        name = served_name(adapter)
        uses = [at for at, (_, body) in enumerate(server.asked) if body.get("model") == name]
        loads = [at for at, (_, body) in enumerate(server.asked) if body.get("lora_name") == name]
        assert loads[0] < uses[0]


def test_few_adapters_are_kept_and_stale_ones_unloaded(server: FakeVllm, adapters: list[Adapter]) -> None:
    policy = connect(server)
    for adapter in adapters:
        policy.sample(ask("abc", max_tokens=1, adapter=adapter))
    assert [body["lora_name"] for body in server.posts("/v1/unload_lora_adapter")] == [
        served_name(adapter) for adapter in adapters[:2]
    ]
    assert list(server.adapters) == [served_name(adapter) for adapter in adapters[2:]]


def test_adapter_name_never_stands_for_other_weights(adapters: list[Adapter]) -> None:
    moved = Adapter(adapters[0].digest, adapters[1].path)
    names = {served_name(adapter) for adapter in [*adapters, moved]}
    assert len(names) == len(adapters) + 1 and all(name.startswith("sha_") for name in names)


def test_adapter_in_use_is_not_unloaded(adapters: list[Adapter]) -> None:
    dropped: list[str] = []
    kept = Adapters(lambda *_: None, dropped.append, kept=1)
    with kept.using(adapters[0]):
        with kept.using(adapters[1]):
            assert not dropped
        with kept.using(adapters[2]):
            assert dropped == [served_name(adapters[1])]
    with kept.using(adapters[3]):
        assert len(dropped) == 3


def test_failed_unload_leaves_no_adapter_in_use(adapters: list[Adapter]) -> None:
    dropped: list[str] = []

    def unload(name: str) -> None:
        dropped.append(name)
        if len(dropped) == 1:
            raise EndpointError("busy")

    kept = Adapters(lambda *_: None, unload, kept=1)
    with kept.using(adapters[0]):
        pass
    with pytest.raises(EndpointError), kept.using(adapters[1]):
        pass
    with kept.using(adapters[2]):
        assert dropped == [served_name(adapters[0]), served_name(adapters[1])]


def test_restarted_server_gets_its_adapters_again(server: FakeVllm, adapters: list[Adapter]) -> None:
    policy = connect(server)
    request = ask("abc", max_tokens=3, adapter=adapters[0])
    before = policy.sample(request)
    server.adapters.clear()
    assert policy.sample(request) == before
    assert len(server.posts("/v1/load_lora_adapter")) == 2


def test_adapter_loaded_by_another_client_is_used(server: FakeVllm, adapters: list[Adapter]) -> None:
    server.adapters[served_name(adapters[0])] = str(adapters[0].path)
    assert connect(server).sample(ask("abc", max_tokens=1, adapter=adapters[0])).output_ids


def test_adapter_that_cannot_be_loaded_is_an_error(server: FakeVllm, adapters: list[Adapter], tmp_path: Path) -> None:
    waits: list[float] = []
    policy = connect(server, waits)
    request = ask("abc", max_tokens=1, adapter=adapters[0])
    server.max_rank = 1
    with pytest.raises(PolicyError, match="max_lora_rank") as refused:
        policy.sample(request)
    assert "--max-lora-rank" in refused.value.hint and not waits
    server.updates = False
    with pytest.raises(PolicyError, match="cannot be loaded") as refused:
        policy.sample(request)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in refused.value.hint
    with pytest.raises(PolicyError, match="not an adapter"):
        policy.sample(ask("abc", adapter=Adapter("f" * 64, tmp_path)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "raw_logprobs"}, "leave the temperature out"),
        ({"gives_ids": False, "version": "0.9.0"}, "no token ids"),
        ({"scores_ids": False, "version": "0.20.0"}, r"vLLM 0\.20\.0"),
        ({"replicas": 2}, "2 data-parallel replicas"),
    ],
)
def test_servers_without_the_needed_features_are_refused(
    tiny_model: Path, settings: dict[str, Any], words: str
) -> None:
    with serve_vllm(tiny_model, **settings) as server, pytest.raises(PolicyError, match=words) as refused:
        connect(server).sample(ask("abc", max_tokens=1))
    assert refused.value.hint


def test_request_beyond_the_context_is_refused_without_asking(server: FakeVllm) -> None:
    policy = connect(server)
    policy.probe()
    before = len(server.asked)
    with pytest.raises(RejectedRequestError, match="do not fit into the server's 512"):
        policy.sample(ask("abc" * 100, max_tokens=300))
    assert len(server.asked) == before


def test_invalid_options_are_refused(server: FakeVllm) -> None:
    for options in ([], ["a", "a"]):
        with pytest.raises(RejectedRequestError, match="options"):
            connect(server).sample(ask("abc", options))


def test_temperatures_that_vllm_would_raise_are_refused(server: FakeVllm) -> None:
    with pytest.raises(PolicyError, match=r"raised to 0\.01"):
        connect(server).sample(ask("abc", temperature=0.001))


def test_server_faults_are_retried_or_raised(server: FakeVllm) -> None:
    waits: list[float] = []
    policy = connect(server, waits)
    expected = policy.sample(ask("abc", max_tokens=3))
    aborted = {"choices": [{"index": 0, "finish_reason": "abort", "logprobs": {"token_logprobs": []}}]}
    server.faults = [(503, {"error": "busy"}), (200, aborted)]
    assert policy.sample(ask("abc", max_tokens=3)) == expected
    assert len(waits) == 2
    server.faults = [(500, {"error": {"message": "engine dead"}})] * 3
    with pytest.raises(EndpointError, match="engine dead"):
        policy.sample(ask("abc", max_tokens=3))
    assert not server.faults


def test_missing_server_is_an_error(tiny_model: Path) -> None:
    with serve_vllm(tiny_model) as server:
        policy = connect(server)
    with pytest.raises(EndpointError, match="no answer") as gone:
        policy.probe()
    assert server.url in gone.value.hint


def test_key_is_sent_and_never_shown(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_vllm(tiny_model, key="sk-right") as server:
        monkeypatch.setenv("VLLM_API_KEY", "sk-right")
        assert connect(server).probe()
        monkeypatch.setenv("VLLM_API_KEY", "sk-wrong")
        policy = connect(server)
        with pytest.raises(PolicyError, match="VLLM_API_KEY was refused") as refused:
            policy.probe()
        for text in (repr(policy), str(refused.value), repr(pickle.dumps(refused.value)), policy.digest):
            assert "sk-wrong" not in text
        assert refused.value.__context__ is None


def test_digest_covers_the_weights_not_the_address(tiny_model: Path, local: LocalPolicy) -> None:
    def made(url: str) -> VllmPolicy:
        spec = parse_spec(f"vllm:{tiny_model}@{url}")
        assert spec is not None
        return VllmPolicy(spec, tiny_model, spec.key())

    assert made("http://one:8000/v1").digest == made("http://two:9000").digest != local.digest


def test_end_tokens_are_never_taken_from_an_option(server: FakeVllm, local: LocalPolicy) -> None:
    request: Request = ask("Pick:", ["<|end|>a", "<|end|>b"], seed=3)
    assert connect(server).sample(request).output_ids == local.sample(request).output_ids


def test_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    spec = parse_spec(f"vllm:{tmp_path}")
    assert spec is not None
    with pytest.raises(PolicyError, match=r"no config\.json"):
        VllmPolicy(spec, tmp_path, spec.key())


@pytest.mark.parametrize("spec", ["vllm:", "vllm:m@http://", "vllm:m@host:8000", "vllm:m@http://u:p@host/v1"])
def test_invalid_specs_are_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        parse_spec(spec)

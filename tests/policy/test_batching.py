"""Continuous batching samples the same replies as each request would get alone."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.local import LocalPolicy
from sia_core.policy.local.engine import Engine
from sia_core.policy.local.sampling import _draw
from sia_core.policy.protocol import Completion, EndpointError, RejectedRequestError, Request
from sia_core.policy.trie import trees
from sia_core.weights.spec import UpdateSpec
from sia_core.weights.trainer import Trainer
from tests.factories import ask

OPTIONS = ["abc", "abd", "ab", "b", "xyz"]
Adapters = list[Adapter | None]


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> Iterator[LocalPolicy]:
    policy = LocalPolicy("alone", tiny_model, threads=1)
    yield policy
    policy.close()


@pytest.fixture(scope="module")
def together(tiny_model: Path) -> Iterator[LocalPolicy]:
    policy = LocalPolicy("together", tiny_model, threads=1, batch=6)
    yield policy
    policy.close()


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    """No adapter, and three that answer differently."""
    made: Adapters = [None]
    for seed in range(3):
        trainer = Trainer(tiny_model, UpdateSpec(None, 1, 1, 0.01, 4, 1.0, 0), None, threads=1)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trainer._parameters.values():
                parameter.normal_(std=0.05)
        made.append(trainer.save(tmp_path_factory.mktemp("adapter") / "checkpoint", []))
    return made


def load(adapters: Adapters, count: int, seed: int) -> list[Request]:
    """Chats and choices as they come: of any length, at any temperature, for any adapter."""
    rng = random.Random(seed)
    requests = []
    for number in range(count):
        text = "".join(rng.choice("abcdef ") for _ in range(rng.randint(1, 100)))
        options = rng.sample(OPTIONS, rng.randint(1, 5)) if rng.random() < 0.3 else None
        adapter, temperature = rng.choice(adapters), rng.choice([0.5, 1.0, 2.0])
        tokens = rng.randint(1, 50)
        requests.append(ask(text, options, seed=number, adapter=adapter, temperature=temperature, max_tokens=tokens))
    return requests


def sample_all(policy: LocalPolicy, requests: Sequence[Request], threads: int) -> list[Completion]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(policy.sample, requests))


@torch.inference_mode()
def logprobs_alone(policy: LocalPolicy, request: Request, done: Completion) -> list[float]:
    """Logprobs of the recorded ids, in a single pass over their sequence only."""
    assert done.prompt_ids is not None and done.output_ids is not None
    ids = torch.tensor([[*done.prompt_ids, *done.output_ids]])
    with policy._engine._using(request.adapter) as model:
        logit_TV = model(input_ids=ids).logits[0, len(done.prompt_ids) - 1 : -1].double()
    found = []
    for at, token in enumerate(done.output_ids):
        allowed = done.allowed[at] if done.allowed else None
        logit_A = logit_TV[at] if allowed is None else logit_TV[at, list(allowed)]
        index = token if allowed is None else allowed.index(token)
        found.append(float(torch.log_softmax(logit_A / request.sampling.temperature, -1)[index]))
    return found


def test_logprobs_are_those_of_the_recorded_ids_computed_alone(
    alone: LocalPolicy, together: LocalPolicy, adapters: Adapters
) -> None:
    requests = load(adapters, 60, seed=1)
    for request, done in zip(requests, sample_all(together, requests, 12), strict=True):
        assert done.logprobs == pytest.approx(
            logprobs_alone(alone, request, done), abs=1e-5 / request.sampling.temperature
        )


def test_batched_replies_are_those_sampled_one_at_a_time(
    alone: LocalPolicy, together: LocalPolicy, adapters: Adapters
) -> None:
    requests = load(adapters, 60, seed=2)
    for request, done in zip(requests, sample_all(together, requests, 12), strict=True):
        expected = alone.sample(request)
        assert (done.text, done.output_ids, done.finish) == (expected.text, expected.output_ids, expected.finish)
        if request.options is not None:
            assert done == expected  # Choices are computed alone: equal bit for bit.


def test_counts_are_those_of_the_ids(together: LocalPolicy) -> None:
    for done in sample_all(together, [ask("abc", max_tokens=5), ask("abc", OPTIONS)], 2):
        assert (done.prompt_tokens, done.output_tokens) == (len(done.prompt_ids or ()), len(done.output_ids or ()))


def test_short_request_does_not_wait_for_longer_ones(together: LocalPolicy) -> None:
    order: list[str] = []

    def sample(name: str, request: Request) -> None:
        together.sample(request)
        order.append(name)

    long = threading.Thread(target=sample, args=("long", ask("abc", seed=3, temperature=9.0, max_tokens=400)))
    long.start()
    sample("short", ask("abc", max_tokens=2))
    sample("choice", ask("other", OPTIONS))
    long.join()
    assert order == ["short", "choice", "long"]


def test_error_of_a_request_fails_that_request_alone(together: LocalPolicy, adapters: Adapters, tmp_path: Path) -> None:
    broken = Adapter("f" * 64, tmp_path / "nowhere")
    requests = load(adapters, 20, seed=3)
    expected = sample_all(together, requests, 8)
    with ThreadPoolExecutor(8) as pool:
        bad = pool.submit(together.sample, ask("abc", adapter=broken))
        found = list(pool.map(together.sample, requests))
        assert [done.output_ids for done in found] == [done.output_ids for done in expected]
        with pytest.raises(PolicyError, match="not an adapter"):
            bad.result()


def test_weights_that_are_no_numbers_fail_their_own_request(
    together: LocalPolicy, adapters: Adapters, tiny_model: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_model, UpdateSpec(None, 1, 1, 0.01, 4, 1.0, 0), None, threads=1)
    with torch.no_grad():
        for parameter in trainer._parameters.values():
            parameter.fill_(1e30)  # Finite, as weights have to be, and too large for any product.
    broken = trainer.save(tmp_path / "checkpoint", [])
    for options in (None, OPTIONS):
        with pytest.raises(PolicyError, match="not numbers"):
            together.sample(ask("abc", options, adapter=broken))
    assert together.sample(ask("abc", adapter=adapters[1], max_tokens=4)).output_ids


@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "MemoryError"), (RuntimeError("kernel crashed"), "kernel crashed")]
)
def test_failed_step_fails_requests_in_flight_only(
    together: LocalPolicy, adapters: Adapters, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    requests = [ask("abc", seed=seed, adapter=adapters[seed], max_tokens=9) for seed in range(4)]
    expected = sample_all(together, requests, 4)

    def fail(module: torch.nn.Module, query: torch.Tensor, *args: Any, **how: Any) -> Any:
        if query.shape[2] == 1 and module.layer_idx == 1:
            raise error
        return sdpa_attention_forward(module, query, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr("sia_core.policy.local.cache.sdpa_attention_forward", fail)
        with ThreadPoolExecutor(4) as pool:
            errors = [future.exception() for future in [pool.submit(together.sample, ask) for ask in requests]]
    assert len({id(error) for error in errors}) == 4
    assert all(isinstance(error, EndpointError) and words in error.what for error in errors)
    again = sample_all(together, requests, 4)
    assert [done.output_ids for done in again] == [done.output_ids for done in expected]


def test_replies_stay_the_same_with_more_adapters_in_use_than_kept(
    tiny_model: Path, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sia_core.policy.local.ADAPTERS_KEPT", 1)
    policy = LocalPolicy("local", tiny_model, threads=1, batch=4)
    requests = [ask("abc", seed=seed, adapter=adapters[seed % 4], max_tokens=40) for seed in range(24)]
    one_by_one = sample_all(policy, requests, 1)
    for mine, other in zip(sample_all(policy, requests[::-1], 8)[::-1], one_by_one, strict=True):
        assert mine.output_ids == other.output_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=3e-5)
    policy.close()


def test_rest_of_the_batch_changes_last_bits_of_logprobs_alone(together: LocalPolicy, adapters: Adapters) -> None:
    requests = load(adapters, 40, seed=5)
    crowded, sparse = sample_all(together, requests, 12), sample_all(together, requests[::-1], 2)[::-1]
    for one, other in zip(crowded, sparse, strict=True):
        assert one.output_ids == other.output_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=3e-5)


def test_closing_fails_what_is_in_flight_and_what_comes_later(tiny_model: Path) -> None:
    policy = LocalPolicy("local", tiny_model, threads=1, batch=2)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(policy.sample, ask("abc", seed=s, temperature=9.0, max_tokens=450)) for s in range(4)]
        while not policy._engine._rows:
            time.sleep(0.001)
        policy.close()
        errors = [future.exception() for future in futures]
    assert all(isinstance(error, EndpointError) and "closed" in error.what for error in errors)
    with pytest.raises(EndpointError, match="closed"):
        policy.sample(ask("abc"))
    assert policy._scheduler._thread is None


def test_request_beyond_the_context_is_refused(alone: LocalPolicy) -> None:
    with pytest.raises(RejectedRequestError, match="do not fit into the model's 512") as refused:
        alone.sample(ask("abc" * 100, max_tokens=300))
    assert refused.value.hint
    with pytest.raises(RejectedRequestError, match="the longest option"):
        alone.sample(ask("abc", ["a", "b" * 600]))
    assert alone.sample(ask("abc" * 100, max_tokens=100)).output_ids


def test_options_read_as_a_tree_are_as_those_read_one_by_one(
    alone: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [first + second + third for first in "ab" for second in "cd" for third in ("", "e", "fg")]
    requests = [ask("tree", options, seed=seed, temperature=3.0) for seed in range(30)]
    in_one_pass = [alone.sample(request) for request in requests]
    alone._engine._memo.clear()
    monkeypatch.setattr(alone._engine, "_tree_nodes", 1)
    for mine, other in zip(in_one_pass, [alone.sample(request) for request in requests], strict=True):
        assert mine.output_ids == other.output_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=3e-5)


def test_trees_hold_what_paths_share_once() -> None:
    (tree,) = trees([(), (1,), (1, 2), (1, 3), (4,)], 10)
    assert (tree.tokens, tree.parents, tree.depths) == ([1, 2, 3, 4], [-1, 0, 0, -1], [0, 1, 1, 0])
    assert tree.ends == {(1,): 0, (1, 2): 1, (1, 3): 2, (4,): 3}
    assert not tree.chain
    assert [tree.tokens for tree in trees([(1,), (1, 2), (3,)], 1)] == [[1], [1, 2], [3]]


def test_equal_prompts_are_read_once(alone: LocalPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Engine._pass

    def count(self: Engine, ids: Sequence[int], *args: Any, **how: Any) -> torch.Tensor:
        read.append(len(ids))
        return original(self, ids, *args, **how)

    monkeypatch.setattr(Engine, "_pass", count)
    for seed in range(4):
        alone.sample(ask("a prompt of its own", seed=seed, max_tokens=1))
    alone.sample(ask("a prompt of its own", ["a", "b"]))
    assert len(read) == 1


@pytest.fixture(scope="module")
def sliding(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that sees only the last eight tokens."""
    directory = tmp_path_factory.mktemp("sliding")
    config = MistralConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        max_position_embeddings=256,
        eos_token_id=0,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    return directory


def test_sliding_window_model_gives_the_same_replies(sliding: Path) -> None:
    requests = load([None], 20, seed=4)
    one, many = LocalPolicy("one", sliding, threads=1), LocalPolicy("many", sliding, threads=1, batch=4)
    for request, done in zip(requests, sample_all(many, requests, 8), strict=True):
        assert done.output_ids == one.sample(request).output_ids
        assert done.logprobs == pytest.approx(logprobs_alone(one, request, done), abs=2e-5)
    one.close()
    many.close()


def test_tokens_are_drawn_as_often_as_their_logprobs_say() -> None:
    logprobs = torch.log_softmax(torch.tensor([0.0, 1.0, -2.0, float("-inf"), 2.0], dtype=torch.float64), -1)
    noise, count = torch.Generator().manual_seed(0), 20_000
    drawn = torch.bincount(torch.tensor([_draw(logprobs, noise) for _ in range(count)]), minlength=5)
    chances = logprobs.exp()
    assert bool(((drawn - count * chances).abs() <= 4.5 * (count * chances * (1 - chances)).sqrt()).all())

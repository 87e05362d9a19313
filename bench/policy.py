"""Measure how fast the local policy samples: single replies against continuous batching, as ratios from one run.

The model is SmolLM2 if it has been converted, else a random Llama of 0.1 M parameters, on which nearly all time is
overhead. Ways take turns in rounds, so that a change of load reaches all of them: compare the ratios, not the rates.

    python bench/policy.py [--quick] [--json FILE]
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import Sampling
from sia_core.policy.base import adapter_digest, base_digest, share_cores
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.smollm2 import SOURCE, directory

if TYPE_CHECKING:
    from sia_core.policy.local import LocalPolicy

# torch and modules that load it are imported in functions, because `share_cores` has to come first.

_BATCH = 16
_AT_ONCE = (1, 4, 8, 16)
_TEXT = "Continue this list of words, one a line, and do not stop: apple, pear, plum, cherry, "
_OPTIONS = tuple(f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("square", "circle", "star"))
_numbers = itertools.count()


def _tiny_model(folder: Path) -> Path:
    """Make a random Llama over bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = ["<|end|>", "<|pad|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>").save_pretrained(folder)
    return folder


def _adapters(base: Path, folder: Path) -> list[Adapter]:
    """Make three random adapters of rank 8 on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from sia_core.policy.local import load_base

    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(load_base(base), config)
        model.peft_config["default"].base_model_name_or_path = f"sha256:{base_digest(base)}"
        model.save_pretrained(str(folder / str(seed)))
        made.append(Adapter(adapter_digest(folder / str(seed)), folder / str(seed)))
    return made


def _requests(
    count: int, tokens: int, adapters: Sequence[Adapter | None] = (None,), options: tuple[str, ...] | None = None
) -> list[Request]:
    """Make new prompts, for which nothing is cached."""
    made = []
    for number in itertools.islice(_numbers, count):
        messages = ({"role": "user", "content": f"{number}: {_TEXT}"},)
        made.append(Request(messages, Sampling(1.0, tokens), number, adapters[number % len(adapters)], options))
    return made


def _sample(policy: "LocalPolicy", requests: Sequence[Request], at_once: int) -> tuple[list[Completion], float]:
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        done = list(pool.map(policy.sample, requests))
    return done, time.perf_counter() - began


def _tokens(policy: "LocalPolicy", requests: Sequence[Request], at_once: int) -> float:
    """Measure sampled tokens per second; a reply may end early."""
    done, seconds = _sample(policy, requests, at_once)
    return sum(completion.output_tokens for completion in done) / seconds


def _choices(policy: "LocalPolicy", requests: Sequence[Request], at_once: int, nodes: int | None = None) -> float:
    """Measure choices per second, with options read in trees of `nodes` nodes."""
    kept = policy._engine._tree_nodes
    policy._engine._tree_nodes = kept if nodes is None else nodes
    seconds = _sample(policy, requests, at_once)[1]
    policy._engine._tree_nodes = kept
    return len(requests) / seconds


def _ways(
    alone: "LocalPolicy", together: "LocalPolicy", adapters: Sequence[Adapter], tokens: int
) -> dict[str, Callable[[], float]]:
    mixed = [None, *adapters]
    ways: dict[str, Callable[[], float]] = {"chat, batch 1": lambda: _tokens(alone, _requests(2, tokens), 1)}
    for at_once in _AT_ONCE:
        ways[f"chat, {at_once} at once"] = lambda n=at_once: _tokens(together, _requests(n, tokens), n)  # type: ignore[misc]
    ways |= {
        "3 adapters and none, batch 1": lambda: _tokens(alone, _requests(4, tokens, mixed), 1),
        "3 adapters and none, 16 at once": lambda: _tokens(together, _requests(16, tokens, mixed), 16),
        "choices, path by path": lambda: _choices(alone, _requests(4, 1, options=_OPTIONS), 1, nodes=1),
        "choices, batch 1": lambda: _choices(alone, _requests(4, 1, options=_OPTIONS), 1),
        "choices, 8 at once": lambda: _choices(together, _requests(8, 1, options=_OPTIONS), 8),
    }
    return ways


def _largest_difference(alone: "LocalPolicy", together: "LocalPolicy", adapters: Sequence[Adapter]) -> float:
    """Return the largest difference between logprobs sampled in a batch and alone, where the ids are the same."""
    requests = _requests(8, 16, [None, *adapters])
    batched = _sample(together, requests, 8)[0]
    single = _sample(alone, requests, 1)[0]
    pairs = [(a, b) for a, b in zip(batched, single, strict=True) if a.output_ids == b.output_ids]
    return max(abs(x - y) for a, b in pairs for x, y in zip(a.logprobs or (), b.logprobs or (), strict=True))


def measure(base: Path, folder: Path, rounds: int, tokens: int) -> dict[str, float]:
    """Measure the median rate of each way, and the ratios to compare."""
    from sia_core.policy.local import LocalPolicy

    threads = min(4, os.cpu_count() or 1)
    alone = LocalPolicy("batch 1", base, threads=threads)
    together = LocalPolicy("batched", base, threads=threads, batch=_BATCH)
    adapters = _adapters(base, folder)
    difference = _largest_difference(alone, together, adapters)
    ways = _ways(alone, together, adapters, tokens)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(way())
    alone.close()
    together.close()
    numbers = {f"{name} (1/s)": statistics.median(values) for name, values in rates.items()}
    pairs = [(f"chat, {n} at once", "chat, batch 1") for n in _AT_ONCE]
    pairs += [
        ("3 adapters and none, 16 at once", "3 adapters and none, batch 1"),
        ("choices, batch 1", "choices, path by path"),
        ("choices, 8 at once", "choices, batch 1"),
    ]
    for name, other in pairs:
        ratios = [mine / its for mine, its in zip(rates[name], rates[other], strict=True)]
        numbers[f"{name} / {other.split(', ')[-1]}"] = statistics.median(ratios)
    return {**numbers, "largest difference of a logprob": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small random model, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    share_cores()
    with tempfile.TemporaryDirectory() as folder:
        smollm2 = not options.quick and (directory() / SOURCE).is_file()
        base = directory() if smollm2 else _tiny_model(Path(folder) / "model")
        numbers = measure(base, Path(folder), *((1, 16) if options.quick else (5, 32)))
    print("model:", "SmolLM2" if smollm2 else "a random Llama of 0.1 M parameters")
    for name, value in numbers.items():
        print(f"{name:58} {value:10.3g}")
    if options.json:
        record = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "smollm2": smollm2, **numbers}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

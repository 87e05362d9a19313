"""Time an optimiser step of a LoRA on one group: this project's packed step, TRL's GRPOTrainer and a padded batch.

All use the same model, rows, adapter, dtype and threads, GRPO's loss at ratio 1, and Adam. The ways take turns, each
time in a process with the machine's memory to itself, so that a change of load reaches all of them; a way's figure is
the median of its steps. Compare the ratios, not the seconds.

Forward, loss, backward, clipping of the norm and optimiser step are timed, with entropies. Loading, generation, rewards
and the first step are not. Of TRL this covers `compute_loss` on a batch as its generation would have prepared it,
`accelerator.backward` and its optimiser's step. Tokens per second count all rows with their prompts, so that ways that
feed shared tokens once are not at a disadvantage.

Without Triton, so on a CPU, TRL 1.16 passes every position through the output layer, prompts included. The padded way
passes completions only, and shows the remaining cost of repeated shared tokens.

The model is SmolLM2-135M if it has been converted, else, and with --quick, a random Llama that is named.

    python bench/weight_step.py [--quick] [--rounds N] [--bf16] [--checkpointing] [--json FILE]
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.policy.base import share_cores
from sia_core.policy.smollm2 import directory

if TYPE_CHECKING:
    import torch

# torch and modules that load it are imported in functions, because `share_cores` has to come first.

_SHAPES = ((512, 8, 16), (128, 8, 64), (32, 8, 128))
"""Tokens of the prompt, number of completions, tokens of each completion."""
_GOALS = (5.0, None, 1.0)
"""Goal of the speed for each shape, as a multiple of TRL's."""
_WAYS = ("packed", "trl", "padded")
_STEPS = 2
"""Timed steps of a process, after an untimed one."""
_SMALL: Mapping[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
}

Shape = tuple[int, int, int]
Step = Callable[[], Any]


def _load(options: argparse.Namespace) -> Any:
    """Load the model with an adapter whose B is not 0, because A would otherwise have no gradient."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    if options.small:
        config = LlamaConfig(**_SMALL, bos_token_id=0, eos_token_id=1, pad_token_id=2)
        model: Any = LlamaForCausalLM(config)
        model.to(dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(directory(), dtype=dtype)
    lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, bias="none", target_modules="all-linear")
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for parameter in _trained(model):
            parameter.add_(torch.randn_like(parameter) * 0.01)
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def _trained(model: Any) -> list["torch.nn.Parameter"]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _rows(shape: Shape, vocabulary: int) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Make ids of the prompt (P,), of the completions (B, T), and advantages (B,)."""
    import torch

    prompt, count, tokens = shape
    torch.manual_seed(sum(shape))
    ids = torch.randint(10, vocabulary, (prompt + count * tokens,))
    return ids[:prompt], ids[prompt:].view(count, tokens), torch.linspace(-1, 1, count)


def _optimizer(model: Any) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.Adam(_trained(model), lr=1e-5, betas=(0.9, 0.95))


def _finish(model: Any, optimizer: "torch.optim.Optimizer") -> None:
    import torch

    torch.nn.utils.clip_grad_norm_(_trained(model), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _spec() -> Any:
    from sia_core.weights.spec import UpdateSpec

    return UpdateSpec(None, 1, 1, 1e-5, 16, 1.0, seed=0)


def _packed(model: Any, shape: Shape) -> tuple[Step, Step]:
    import torch

    from sia_core.weights.forward import Forward
    from sia_core.weights.losses import policy_loss
    from sia_core.weights.rows import Choice

    prompt_P, ids_BT, advantage_B = _rows(shape, model.config.vocab_size)
    sequences = [(*prompt_P.tolist(), *ids_T.tolist()[:-1]) for ids_T in ids_BT]
    choices = [
        Choice(row, len(prompt_P) - 1 + at, token, None, None, float(advantage_B[row]), row)
        for row, ids_T in enumerate(ids_BT)
        for at, token in enumerate(ids_T.tolist())
    ]
    advantage_N = torch.tensor([choice.advantage for choice in choices])
    forward, optimizer = Forward(model, 1.0), _optimizer(model)
    if forward.fallback:
        raise SystemExit(forward.fallback)
    spec = _spec()

    def gradient() -> None:
        for part in forward.passes(sequences, choices):
            weight_N = torch.full((len(part.index),), 1 / len(choices))
            # A rollout would bring the recorded logprobs.
            recorded_N = part.logprob.detach()
            policy_loss("clip", part.logprob, recorded_N, advantage_N[part.index], weight_N, spec).loss.backward()  # type: ignore[no-untyped-call]

    return gradient, lambda: _finish(model, optimizer)


def _padded(model: Any, shape: Shape) -> tuple[Step, Step]:
    import torch

    from sia_core.weights.losses import choice_logprobs, policy_loss

    prompt_P, ids_BT, advantage_B = _rows(shape, model.config.vocab_size)
    count, tokens = ids_BT.shape
    input_BS = torch.cat([prompt_P.expand(count, -1), ids_BT], 1)
    advantage_N = advantage_B[:, None].expand(count, tokens).flatten()
    optimizer, spec = _optimizer(model), _spec()

    def gradient() -> None:
        mask_BS = torch.ones_like(input_BS)
        logit_BTV = model(input_BS, attention_mask=mask_BS, logits_to_keep=tokens + 1, use_cache=False).logits[:, :-1]
        size = count * tokens
        logprob_N, _ = choice_logprobs(
            logit_BTV.flatten(0, 1), torch.arange(size), ids_BT.flatten(), [None] * size, 1.0
        )
        weight_N = torch.full((size,), 1 / size)
        policy_loss("clip", logprob_N, logprob_N.detach(), advantage_N, weight_N, spec).loss.backward()  # type: ignore[no-untyped-call]

    return gradient, lambda: _finish(model, optimizer)


def _trl(model: Any, shape: Shape) -> tuple[Step, Step]:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    prompt_P, ids_BT, advantage_B = _rows(shape, model.config.vocab_size)
    count = len(ids_BT)
    make: Any = PreTrainedTokenizerFast
    reward: Any = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
    words = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<end>"))
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=model.is_gradient_checkpointing,
                per_device_train_batch_size=count,
                num_generations=count,
                loss_type="grpo",
                report_to=[],
            ),
            train_dataset=Dataset.from_dict({"prompt": ["x"] * count}),
            processing_class=make(tokenizer_object=words, eos_token="<end>", pad_token="<pad>"),
        )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    optimizer = _optimizer(model)
    batch = {
        "prompt_ids": prompt_P.expand(count, -1),
        "prompt_mask": torch.ones(count, len(prompt_P), dtype=torch.long),
        "completion_ids": ids_BT,
        "completion_mask": torch.ones_like(ids_BT),
        "advantages": advantage_B,
        "num_items_in_batch": torch.tensor(ids_BT.numel()),
    }

    def gradient() -> None:
        trainer.accelerator.backward(trainer.compute_loss(trainer.model, batch))

    return gradient, lambda: _finish(model, optimizer)


def _work(way: str, shape: Shape, options: argparse.Namespace, gradients: Path, pipe: Connection) -> None:
    """Run in a process: a first step that writes its gradient to a file, then some timed ones."""
    share_cores()
    import torch

    torch.set_num_threads(options.threads)
    if way == "packed":
        from sia_core.weights.trainer import be_deterministic

        be_deterministic("cpu")  # As in an update.
    model = _load(options)
    gradient, finish = {"packed": _packed, "trl": _trl, "padded": _padded}[way](model, shape)
    loaded = _peak()
    gradient()
    torch.save(torch.cat([parameter.grad.flatten().float() for parameter in _trained(model)]), gradients)  # type: ignore[union-attr]
    finish()
    seconds = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        gradient()
        finish()
        seconds.append(time.perf_counter() - started)
    pipe.send({"seconds": seconds, "loaded": loaded, "peak": _peak()})


def _peak() -> float:
    """Return the peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _run(way: str, shape: Shape, options: argparse.Namespace, gradients: Path) -> dict[str, Any]:
    """Measure one way in a separate process."""
    start = multiprocessing.get_context("spawn")
    here, there = start.Pipe()
    worker = start.Process(target=_work, args=(way, shape, options, gradients, there), daemon=True)
    worker.start()
    there.close()
    try:
        found: dict[str, Any] = here.recv()
    except EOFError:
        raise SystemExit(f"{way} ended without a result at {shape}: is there enough memory?") from None
    worker.join()
    return found


def _measure(shape: Shape, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        found = {way: {"way": way, "seconds": [], "peak": 0.0} for way in _WAYS}
        for _ in range(options.rounds):
            for way, one in found.items():
                now = _run(way, shape, options, Path(folder, way))
                one["seconds"] += now["seconds"]
                one["peak"], one["loaded"] = max(one["peak"], now["peak"]), now["loaded"]
        if options.bf16:
            exact = argparse.Namespace(**{**vars(options), "bf16": False})
            _run("padded", shape, exact, Path(folder, "reference"))
        reference = torch.load(Path(folder, "reference" if options.bf16 else "padded"))
        for way, one in found.items():
            off = torch.load(Path(folder, way)) - reference
            one["off"] = float(off.norm() / reference.norm())
            yield one


def _report(shape: Shape, ways: list[dict[str, Any]]) -> None:
    prompt, count, tokens = shape
    print(f"\nprompt {prompt}, {count} x {tokens} tokens")
    print(f"  {'way':8} {'s/step':>8} {'tokens/s':>9} {'x TRL':>6} {'peak GB':>8} {'(loaded)':>9} {'gradient off':>13}")
    for way in ways:
        way["median"] = statistics.median(way["seconds"])
        way["tokens_per_s"] = count * (prompt + tokens) / way["median"]
    slow = next(way["median"] for way in ways if way["way"] == "trl")
    for way in ways:
        print(
            f"  {way['way']:8} {way['median']:8.2f} {way['tokens_per_s']:9.0f} {slow / way['median']:6.1f}"
            f" {way['peak']:8.2f} {way['loaded']:9.2f} {way['off']:13.1e}",
            flush=True,
        )


def machine() -> str:
    """Describe processor and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {names[0] if names else platform.machine()}; {versions}"


def goals(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each shape: speed and peak memory against TRL's, and whether each aim was met."""
    for result in results:
        ways = {way["way"]: way for way in result["ways"]}
        packed, trl = ways["packed"], ways["trl"]
        aim = _GOALS[_SHAPES.index(result["shape"])]
        faster, memory = trl["median"] / packed["median"], packed["peak"] <= trl["peak"]
        speed = f"{faster:.1f} x TRL" + (f", aim {aim:g}: {'met' if faster >= aim else 'MISSED'}" if aim else "")
        yield f"{result['shape']}: {speed}; peak memory no higher than TRL's: {'met' if memory else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small random model, one shape, one turn each")
    parser.add_argument("--rounds", type=int, help="turns of each way, of 2 timed steps (2; with --quick 1)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bf16", action="store_true", help="all ways in bf16; the reference stays fp32")
    parser.add_argument("--checkpointing", action="store_true", help="all ways with gradient checkpointing")
    parser.add_argument("--shapes", type=int, nargs="*", help="which of the three (all; with --quick the second)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 2)
    options.shapes = options.shapes or ([1] if options.quick else [0, 1, 2])
    options.small = options.quick or not (directory() / "config.json").exists()
    model = f"random Llama {dict(_SMALL)}" if options.small else "SmolLM2-135M"
    dtype = "bf16" if options.bf16 else "fp32"
    print(f"{model}, LoRA rank 16, {dtype}, {options.threads} threads, load average {os.getloadavg()[0]:.1f}")
    print(machine())
    results = []
    for at in options.shapes:
        ways = list(_measure(_SHAPES[at], options))
        _report(_SHAPES[at], ways)
        results.append({"shape": _SHAPES[at], "ways": ways})
    print("\ngoals", *(f"  {goal}" for goal in goals(results)), sep="\n")
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")
    if options.json:
        about = {
            "machine": machine(),
            "model": model,
            "dtype": dtype,
            "threads": options.threads,
            "checkpointing": options.checkpointing,
        }
        options.json.write_text(json.dumps({**about, "results": results}, indent=1))


if __name__ == "__main__":
    main()

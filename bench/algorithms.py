"""Train with six algorithms on three synthetic settings, to see whether each learns where it should.

A tiny Llama, pretrained here for seconds to write random letters, is trained in on-policy rounds by the project's
Trainer, adapters saved and loaded as in a run. Every algorithm gets the same rollouts per round, rounds and learning
rate, without tuning. Scores before and after are means of 256 fresh rollouts, with 95 % t-intervals over seeds.
Overlapping intervals are no ranking. The verdict of the preconditions on the first batch is shown but not obeyed: all
are trained.

    python -m bench.algorithms [--quick] [--json FILE]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import Rollout, Turn, Unit, Verdict
from sia_core.policy.local import load_base
from sia_core.weights.preconditions import suggest
from sia_core.weights.spec import UpdateSpec, refuse
from sia_core.weights.trainer import Trainer

ALGORITHMS = ("dr_grpo", "ppo", "rloo", "entropic", "best_of_n", "dpo")
LETTERS = tuple(range(2, 8))
PROBLEMS = tuple(range(8, 12))
VOCABULARY = 12
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
MEASURED = 256


@dataclass(frozen=True)
class Setting:
    """Problems with fixed correct letters; a rollout has some turns of one letter each."""

    name: str
    problems: int
    turns: int
    score: Callable[[list[bool]], float]
    """Score of a rollout, computed from its correct turns."""
    steps: bool = False
    """True if the verdict has a score for each turn."""


SETTINGS = (
    Setting("sparse binary", 4, 2, lambda right: float(all(right))),
    Setting("dense steps", 4, 4, lambda right: sum(right) / len(right), steps=True),
    Setting("skewed single problem", 1, 5, lambda right: (2 ** sum(right) - 1) / (2 ** len(right) - 1)),
)


def make_base(folder: Path) -> Path:
    """Pretrain a Llama of 0.1 M parameters to write letters after a problem's token."""
    names = ["<end>", "<pad>", *"abcdef", *(f"<p{number}>" for number in range(4))]
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            eos_token_id=0,
            bos_token_id=None,
            pad_token_id=1,
            initializer_range=0.2,
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        ids = torch.cat([torch.randint(8, 12, (64, 1)), torch.randint(2, 8, (64, 6))], 1)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def play(base: Path, adapter: Adapter | None, setting: Setting, seed: int, each: int) -> list[Rollout]:
    """Sample `each` rollouts of every problem of a setting."""
    model: Any = load_base(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter.path)
    draw = torch.Generator().manual_seed(seed)
    problems = [number for number in range(setting.problems) for _ in range(each)]
    ids = torch.tensor([[PROBLEMS[number]] for number in problems])
    turns: list[list[Turn]] = [[] for _ in problems]
    for _ in range(setting.turns):
        logits = model.eval()(input_ids=ids, use_cache=False).logits[:, -1, list(LETTERS)].float()
        logprobs = torch.log_softmax(logits, -1)
        picked = torch.multinomial(logprobs.exp(), 1, generator=draw)
        for row, at in enumerate(picked[:, 0].tolist()):
            recorded = ((LETTERS[at],), (float(logprobs[row, at]),), (LETTERS,))
            digest = adapter.digest if adapter else None
            turns[row].append(Turn("choose", "", "", digest, 1.0, tuple(ids[row].tolist()), *recorded))
        ids = torch.cat([ids, torch.tensor(LETTERS)[picked]], 1)
    found = []
    for row, number in enumerate(problems):
        right = [(turn.output_ids or ())[0] == LETTERS[(3 * number + at) % 6] for at, turn in enumerate(turns[row])]
        metrics = {f"step/{at}": one / setting.turns for at, one in enumerate(right)} if setting.steps else {}
        unit = Unit("bench", "h", "p", adapter.digest if adapter else None, "train", f"p{number}", row)
        found.append(Rollout(unit, tuple(turns[row]), {}, Verdict(setting.score(right), metrics=metrics)))
    return found


def mean_score(base: Path, adapter: Adapter | None, setting: Setting, seed: int) -> float:
    """Return the mean score of fresh rollouts."""
    rollouts = play(base, adapter, setting, seed, MEASURED // setting.problems)
    return statistics.fmean(rollout.score or 0.0 for rollout in rollouts)


def learn(base: Path, algorithm: str, setting: Setting, seed: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Run one update; return mean score before and after, and the preconditions' verdict on its first batch."""
    spec = UpdateSpec(
        parent_adapter=None,
        rounds=rounds,
        steps=2,
        learning_rate=1e-2,
        rank=8,
        temperature=1.0,
        seed=seed,
        algorithm=algorithm,
        max_kl=5.0,
        lam=0.95,
    )
    trainer = Trainer(base, spec, None, threads=torch.get_num_threads())
    adapter: Adapter | None = None
    refusal = suggested = None
    for number in range(rounds):
        rollouts = play(base, adapter, setting, 1000 * seed + number, 64 // setting.problems)
        if number == 0:
            refusal, suggested = refuse(rollouts, spec), suggest(rollouts)[0]
        adapter = trainer.save(folder / "round", trainer.train(rollouts))
    return {
        "algorithm": algorithm,
        "setting": setting.name,
        "seed": seed,
        "before": mean_score(base, None, setting, 10**6 + seed),
        "after": mean_score(base, adapter, setting, 10**6 + seed),
        "refused": refusal,
        "suggested": suggested,
    }


def interval(values: list[float]) -> str:
    """Format mean and 95 % t-interval."""
    half = T_95.get(len(values), 0.0) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {half:.3f}"


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and few rounds: under a minute, no intervals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run's figures")
    options = parser.parse_args()
    seeds, rounds = (1, 3) if options.quick else (3, 24)
    disable_progress_bar: Callable[[], None] = logging.disable_progress_bar
    disable_progress_bar()
    torch.set_num_threads(1)
    started = time.perf_counter()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        base = make_base(Path(temporary) / "base")
        print(f"| setting | algorithm | before | after ({rounds} rounds) | gain | preconditions |")
        print("|---|---|---|---|---|---|")
        for setting in SETTINGS:
            for algorithm in ALGORITHMS:
                runs = [learn(base, algorithm, setting, seed, rounds, Path(temporary)) for seed in range(seeds)]
                results += runs
                before, after = ([run[name] for run in runs] for name in ("before", "after"))
                gain = [end - begin for begin, end in zip(before, after, strict=True)]
                refused = [run["refused"] for run in runs if run["refused"]]
                judged = f"refused {len(refused)} of {seeds}: {refused[0]}" if refused else "accepted"
                cells = [setting.name, algorithm, *map(interval, (before, after, gain))]
                print("|", " | ".join([*cells, judged]), "|", flush=True)
        for setting in SETTINGS:
            suggested = sorted({str(run["suggested"]) for run in results if run["setting"] == setting.name})
            print(f"\nsuggested for {setting.name}: {', '.join(suggested)}", end="")
    print(f"\n\n{seeds} seeds, {time.perf_counter() - started:.0f} s, torch {torch.__version__}, 1 thread")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""The two backends of a weight update on the same batches: do the project's step and TRL's trainers agree?

For each algorithm that both can train, both backends train the same tiny batch from the same adapter with the same
settings. Compared are the loss and the gradient's norm at each step, and the adapter's weights after the last step.
The difference of the weights is given as the largest of one weight, and as the length of the difference of all over
the length of the way that the own backend moved them. Batches that TRL is refused for are listed with the reason.

The adapter has been trained before: at its start, with B = 0, there is no gradient in A. Adam's moments begin at 0, so
its first step is the sign of the gradient. Where a gradient is 0 up to rounding, that sign is chance, and one weight
may end two learning rates apart in backends that agree.

The reason of kto's difference is tested by holding the KL of its reference point at 0 in both backends.

    python -m bench.backends [--quick] [--json FILE]
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers.utils import logging

from sia_core.domain.backend import TRL_ALGORITHMS, Backend
from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import Rollout, Turn, Unit, Verdict
from sia_core.policy.local import load_base
from sia_core.weights.metrics import StepMetrics
from sia_core.weights.spec import UpdateSpec, refuse
from sia_core.weights.trainer import Trainer
from tests.models import make_tiny_model

BACKENDS: tuple[Backend, ...] = ("own", "trl")
LOSS, NORM, WEIGHTS = 1e-5, 1e-5, 1e-3
"""Relative differences of loss, gradient norm and weights up to which the backends agree."""
WHY = (
    "kto's reference point is a KL, not below 0. TRL estimates it from mismatched outputs, part by part of up to 8 "
    "rollouts; the own step from the batch's own rollouts. At the first step both are 0."
)
OPTIONS = (40, 41, 42, 43)
"""Ids among which a restricted batch chooses."""


@dataclass(frozen=True)
class Kind:
    """A kind of batch: turns of a rollout, each of them some sampled ids after an instruction of five."""

    name: str
    turns: int = 1
    rewritten: bool = False
    """True if a turn's prompt leaves out the turns before it, so that it begins a row of its own."""
    restricted: bool = False
    temperature: float = 1.0
    kl_base: float = 0.0
    threshold: float | None = None
    """Least score that is good; a kind that has one is for kto alone."""
    held: bool = False
    """True if the KL of kto's reference point is held at 0 in both backends."""

    @property
    def algorithms(self) -> Sequence[str]:
        """Algorithms that are compared on it."""
        return TRL_ALGORITHMS if self.threshold is None else ("kto",)


TAKEN = (
    Kind("free text, one turn"),
    Kind("one turn, most rollouts good", threshold=0.15),
    Kind("one turn, most good, KL held at 0", threshold=0.15, held=True),
    Kind("free text, two turns in a row", turns=2),
)
REFUSED = (
    Kind("choices among options", restricted=True),
    Kind("temperature 0.7", temperature=0.7),
    Kind("two turns, each a row", turns=2, rewritten=True),
    Kind("KL to the base model", kl_base=0.01),
)


@dataclass(frozen=True)
class Found:
    """Differences of the two backends on one batch with one algorithm."""

    batch: str
    algorithm: str
    steps: int
    loss: float
    """Largest at a step, over the own backend's loss."""
    norm: float
    """Largest at a step, over the own backend's gradient norm."""
    weight: float
    """Largest of one weight of the adapter after the last step."""
    weights: float
    """Length over all weights, over the length of the own backend's movement."""

    @property
    def apart(self) -> list[str]:
        """Names of the figures above their tolerance."""
        figures = (("loss", self.loss, LOSS), ("gradient norm", self.norm, NORM), ("weights", self.weights, WEIGHTS))
        return [name for name, value, limit in figures if not value <= limit]


@torch.no_grad()
def play(base: Path, adapter: Adapter | None, kind: Kind, count: int) -> list[Rollout]:
    """Rollouts of two problems, sampled by the base with the adapter; the more ids below 100, the better."""
    model: Any = load_base(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter.path)
    model.eval()
    draw = torch.Generator().manual_seed(0)
    digest = adapter.digest if adapter else None
    found = []
    for number in range(count):
        turns: list[Turn] = []
        ids: list[int] = []
        for turn in range(kind.turns):
            instruction = [50 + 20 * (number % 2) + turn + at for at in range(5)]
            prompt = instruction if kind.rewritten else ids + instruction
            outputs, logprobs = _sample(model, prompt, kind, 4 + (number + turn) % 5, draw)
            allowed = (OPTIONS,) * len(outputs) if kind.restricted else None
            recorded = (tuple(prompt), tuple(outputs), tuple(logprobs), allowed)
            turns.append(Turn("chat", "", "", digest, kind.temperature, *recorded))
            ids = prompt + outputs
        sampled = [token for turn_ in turns for token in turn_.output_ids or ()]
        limit = 42 if kind.restricted else 100
        score = sum(token < limit for token in sampled) / len(sampled)
        unit = Unit("bench", "h", "p", digest, "train", f"p{number % 2}", number)
        found.append(Rollout(unit, tuple(turns), {}, Verdict(score)))
    return found


def _sample(
    model: Any, prompt: Sequence[int], kind: Kind, count: int, draw: torch.Generator
) -> tuple[list[int], list[float]]:
    outputs: list[int] = []
    logprobs: list[float] = []
    for _ in range(count):
        logit_V = model(input_ids=torch.tensor([[*prompt, *outputs]]), use_cache=False).logits[0, -1].float()
        among = OPTIONS if kind.restricted else tuple(range(len(logit_V)))
        logprob_V = torch.log_softmax(logit_V[list(among)] / kind.temperature, -1)
        at = int(torch.multinomial(logprob_V.exp(), 1, generator=draw))
        outputs.append(among[at])
        logprobs.append(float(logprob_V[at]))
    return outputs, logprobs


def spec_of(kind: Kind, algorithm: str, steps: int, parent: Adapter | None) -> UpdateSpec:
    """The update of a kind of batch."""
    return UpdateSpec(
        parent_adapter=parent.digest if parent else None,
        rounds=1,
        steps=steps,
        learning_rate=1e-3,
        rank=4,
        temperature=kind.temperature,
        seed=0,
        algorithm=algorithm,
        kl_base=kind.kl_base,
        threshold=kind.threshold,
        max_kl=1e9,
    )


def make_parent(base: Path, folder: Path) -> Adapter:
    """An adapter that is off its start."""
    spec = replace(spec_of(TAKEN[0], "best_of_n", 4, None), learning_rate=1e-2)
    trainer = Trainer(base, spec, None, threads=torch.get_num_threads())
    return trainer.save(folder, trainer.train(play(base, None, TAKEN[0], 16)))


def train(
    base: Path, parent: Adapter, spec: UpdateSpec, rollouts: Sequence[Rollout], folder: Path
) -> tuple[list[StepMetrics], torch.Tensor]:
    """One update: metrics of its steps, all weights of its adapter."""
    trainer = Trainer(base, spec, parent.path, threads=torch.get_num_threads())
    with contextlib.redirect_stdout(io.StringIO()):  # TRL prints a line a step.
        steps = trainer.train(rollouts)
    return steps, weights_of(trainer.save(folder, steps))


def weights_of(adapter: Adapter) -> torch.Tensor:
    """All weights of an adapter in one row."""
    tensors = load_file(adapter.path / "adapter_model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _kto_without_kl(
    logprob_R: torch.Tensor, reference_R: torch.Tensor, good: Sequence[bool], beta: float
) -> torch.Tensor:
    sign_R = torch.tensor([1.0 if each else -1.0 for each in good])
    return (1 - torch.sigmoid(beta * sign_R * (logprob_R - reference_R))).mean()


@contextlib.contextmanager
def kl_held_at_0() -> Iterator[None]:
    """Take the KL out of kto's loss in both backends."""
    from sia_core.weights import targets, trl_steps

    with (
        mock.patch.object(targets, "kto", _kto_without_kl),
        mock.patch.object(trl_steps._KTO, "_compute_kl_logps", return_value=torch.zeros(1)),
    ):
        yield


def compare(
    base: Path, parent: Adapter, kind: Kind, rollouts: Sequence[Rollout], algorithm: str, steps: int, folder: Path
) -> Found:
    """Train by both backends and measure the differences."""
    spec = spec_of(kind, algorithm, steps, parent)
    with kl_held_at_0() if kind.held else contextlib.nullcontext():
        ends = {
            name: train(base, parent, replace(spec, backend=name), rollouts, folder / f"{algorithm}-{steps}-{name}")
            for name in BACKENDS
        }
    (own, own_P), (trl, trl_P) = ends["own"], ends["trl"]
    assert len(own) == len(trl) == steps
    pairs = list(zip(own, trl, strict=True))
    return Found(
        kind.name,
        algorithm,
        steps,
        max(abs(b.loss - a.loss) / abs(a.loss) for a, b in pairs),
        max(abs(b.grad_norm - a.grad_norm) / a.grad_norm for a, b in pairs),
        float((trl_P - own_P).abs().max()),
        float((trl_P - own_P).norm() / (own_P - weights_of(parent)).norm()),
    )


def compare_all(
    base: Path, parent: Adapter, kinds: Sequence[Kind], count: int, numbers: Sequence[int], folder: Path
) -> Iterator[Found]:
    """Every algorithm of TRL's on every kind of batch that TRL can take."""
    for at, kind in enumerate(kinds):
        rollouts = play(base, parent, kind, count)
        for algorithm in kind.algorithms:
            for steps in numbers:
                yield compare(base, parent, kind, rollouts, algorithm, steps, folder / str(at))


def refusals(base: Path, parent: Adapter, count: int) -> Iterator[tuple[str, str]]:
    """Kinds of batch that TRL is refused for, with the reason; own must take each."""
    for kind in REFUSED:
        rollouts = play(base, parent, kind, count)
        spec = spec_of(kind, "dpo", 1, parent)
        own, trl = (refuse(rollouts, replace(spec, backend=name)) for name in BACKENDS)
        assert own is None and trl is not None, (kind.name, own, trl)
        yield kind.name, trl


def main() -> None:
    """Run and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 rollouts of one turn, 4 steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    options = parser.parse_args()
    kinds, count, numbers = (TAKEN[:3], 16, (4,)) if options.quick else (TAKEN, 48, (1, 4, 16))
    disable_progress_bar: Callable[[], None] = logging.disable_progress_bar
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    started = time.perf_counter()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    print(f"tiny Llama, LoRA rank 4, fp32, 1 thread, {count} rollouts; {versions}")
    print("\n| batch | algorithm | steps | loss | gradient norm | one weight | all weights | |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        base = make_tiny_model(Path(temporary) / "base")
        parent = make_parent(base, Path(temporary) / "parent")
        for one in compare_all(base, parent, kinds, count, numbers, Path(temporary)):
            found.append(one)
            figures = [f"{value:.1e}" for value in (one.loss, one.norm, one.weight, one.weights)]
            judged = f"apart: {', '.join(one.apart)}" if one.apart else "agree"
            print("|", " | ".join([one.batch, one.algorithm, str(one.steps), *figures, judged]), "|", flush=True)
        print(f"\nagree: loss within {LOSS:g}, gradient norm {NORM:g}, all weights {WEIGHTS:g}, all relative")
        if any(one.apart for one in found):
            print(WHY)
        refused = dict(refusals(base, parent, count))
    print("\n| batch | why TRL cannot |\n|---|---|")
    for name, reason in refused.items():
        print(f"| {name} | {reason} |")
    print(f"\n{time.perf_counter() - started:.0f} s, load average {os.getloadavg()[0]:.1f}")
    if options.json:
        rows = [{**asdict(one), "apart": one.apart} for one in found]
        options.json.write_text(json.dumps({"versions": versions, "found": rows, "refused": refused}, indent=1))


if __name__ == "__main__":
    main()

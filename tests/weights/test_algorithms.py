"""Every algorithm steps, resumes bit for bit, and changes the right parameters, through the same Trainer."""

import json
import math
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from sia_core.domain.backend import TRL_ALGORITHMS, Backend
from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Rollout, Turn, Unit, Verdict
from sia_core.policy.local import LocalPolicy
from sia_core.weights.algorithms import ALGORITHMS
from sia_core.weights.groups import batch_digest
from sia_core.weights.losses import dpo
from sia_core.weights.rows import make_batch
from sia_core.weights.spec import UpdateSpec, refuse, why_not_trl
from sia_core.weights.trainer import Trainer
from tests.factories import ask
from tests.weights.test_weights import SPEC, play

LOOSE = replace(SPEC, max_gap=9.0, max_kl=9.0)
BACKENDS: tuple[Backend, ...] = ("trl", "own")


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> LocalPolicy:
    return LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)


@pytest.fixture(scope="module")
def choices(policy: LocalPolicy) -> list[Rollout]:
    """Rollouts of two turns, restricted to options, with rewards of single turns."""
    return [
        replace(r, verdict=Verdict(r.score or 0.0, metrics={"step/0": 0.6 * (r.turns[0].output == "blue")}))
        for r in play(policy, None, 0)
    ]


def spoken(policy: LocalPolicy) -> list[Rollout]:
    """Rollouts of free text of a few tokens; longer texts score more."""
    found = []
    for number in range(16):
        done = policy.sample(ask("Say:", seed=number, max_tokens=4 + number % 5))
        turn = Turn("chat", done.prompt, done.text, None, 1.0, done.prompt_ids, done.output_ids, done.logprobs)
        unit = Unit("t", "h", policy.digest, None, "train", f"p{number % 2}", number)
        found.append(Rollout(unit, (turn,), {}, Verdict(len(done.output_ids or ()) / 10)))
    return found


@pytest.fixture(scope="module")
def texts(policy: LocalPolicy) -> list[Rollout]:
    return spoken(policy)


def logprobs(trainer: Trainer, rollouts: list[Rollout], algorithm: str = "dr_grpo") -> torch.Tensor:
    """Return the sum of the logprobs of each rollout."""
    batch = make_batch(rollouts, algorithm)
    index = torch.tensor([choice.rollout for choice in batch.choices])
    return torch.zeros(batch.rollouts).index_add(0, index, trainer._measure(batch).logprob)


def spec_of(algorithm: str) -> UpdateSpec:
    return replace(LOOSE, algorithm=algorithm, kl_base=0.01 if algorithm in ("rloo", "reinforce_pp") else 0.0)


@pytest.mark.parametrize("kind", ["choices", "texts"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_and_resumes_bit_for_bit(
    algorithm: str, kind: str, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    check_goes_on(spec_of(algorithm), request.getfixturevalue(kind), tiny_model, tmp_path)


def check_goes_on(spec: UpdateSpec, rollouts: list[Rollout], tiny_model: Path, tmp_path: Path) -> None:
    """Two rounds at once, and the second from the first one's checkpoint, give the same files."""
    straight = Trainer(tiny_model, spec, None, threads=1)
    steps = straight.train(rollouts)
    assert len(steps) == 2
    assert steps[0].gap < 1e-4
    assert all(math.isfinite(value) for step in steps for value in vars(step).values())
    first = straight.save(tmp_path / "1", steps)
    straight.train(rollouts)
    second = straight.save(tmp_path / "2", [])
    assert second.digest != first.digest
    resumed = Trainer(tiny_model, spec, None, threads=1)
    resumed.load(tmp_path / "1")
    resumed.train(rollouts)
    assert resumed.save(tmp_path / "again", []).digest == second.digest
    for file in (tmp_path / "2").glob("*.safetensors"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("algorithm", TRL_ALGORITHMS)
def test_trl_trains_free_text_and_goes_on_bit_for_bit(
    algorithm: str, texts: list[Rollout], tiny_model: Path, tmp_path: Path
) -> None:
    check_goes_on(replace(spec_of(algorithm), backend="trl"), texts, tiny_model, tmp_path)


@pytest.mark.parametrize("algorithm", TRL_ALGORITHMS)
def test_trl_and_our_own_forward_pass_take_the_same_step(
    algorithm: str, texts: list[Rollout], tiny_model: Path
) -> None:
    spec = replace(spec_of(algorithm), steps=1)
    assert why_not_trl(make_batch(texts, algorithm), spec) is None
    by_trl, own = (Trainer(tiny_model, replace(spec, backend=name), None, threads=1) for name in BACKENDS)
    (theirs,) = by_trl.train(texts)
    (ours,) = own.train(texts)
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-4)
    assert theirs.grad_norm == pytest.approx(ours.grad_norm, rel=1e-3)
    # Adam's first step is the sign of the gradient: where that is 0 up to rounding, it may differ.
    moved = [
        torch.cat([parameter.flatten() for parameter in trainer._parameters.values()]).detach()
        for trainer in (by_trl, own)
    ]
    assert float(((moved[0] - moved[1]).abs() < 1e-5).float().mean()) > 0.99


def test_settings_that_trl_cannot_reproduce_are_named(choices: list[Rollout], texts: list[Rollout]) -> None:
    spec = spec_of("dpo")
    assert "restricted" in (why_not_trl(make_batch(choices, "dpo"), spec) or "")
    batch = make_batch(texts, "dpo")
    assert "temperature" in (why_not_trl(batch, replace(spec, temperature=0.7)) or "")
    assert "KL" in (why_not_trl(batch, replace(spec, kl_base=0.1)) or "")
    assert "several rows" in (why_not_trl(replace(batch, rows=99), spec) or "")
    assert "advantages" in (why_not_trl(batch, spec_of("grpo")) or "")


def test_batch_that_the_named_backend_cannot_train_is_refused_and_not_trained(
    choices: list[Rollout], texts: list[Rollout], tiny_model: Path
) -> None:
    spec = replace(spec_of("dpo"), backend="trl")
    assert refuse(texts, spec) is None
    reason = "backend trl cannot train this batch: choices were restricted to some ids; set backend to own, which can"
    assert refuse(choices, spec) == reason
    assert refuse(choices, replace(spec, backend="own")) is None
    trainer = Trainer(tiny_model, spec, None, threads=1)
    with pytest.raises(PolicyError, match=reason):
        trainer.train(choices)
    assert trainer.round == 0


def test_backend_that_trained_is_in_the_manifest(texts: list[Rollout], tiny_model: Path, tmp_path: Path) -> None:
    found = {}
    for name in BACKENDS:
        trainer = Trainer(tiny_model, replace(spec_of("dpo"), backend=name), None, threads=1)
        trainer.save(tmp_path / name, trainer.train(texts))
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        found[name] = (manifest["backend"], manifest["trl"], manifest["spec"]["backend"])
    assert found == {"trl": ("trl", version("trl"), "trl"), "own": ("own", None, "own")}


def test_own_is_what_trains_where_no_backend_is_named(
    texts: list[Rollout], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sia_core.weights.trl_steps", None)
    for algorithm in TRL_ALGORITHMS:
        assert Trainer(tiny_model, spec_of(algorithm), None, threads=1).train(texts)


def test_dpo_by_coefficients_has_the_gradient_of_the_loss(
    choices: list[Rollout], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_model, replace(spec_of("dpo"), beta=0.7), None, threads=1)
    with torch.no_grad():
        for parameter in trainer._parameters.values():
            parameter.add_(torch.linspace(-0.01, 0.01, parameter.numel()).view_as(parameter))
    batch = make_batch(choices, "dpo")
    targets = trainer._targets(batch)
    index = torch.tensor([choice.rollout for choice in batch.choices])
    found, members = [], []
    for part in trainer._forward.passes(batch.sequences, batch.choices):
        found.append(part.logprob)
        members += part.index
    zero_R = torch.zeros(batch.rollouts)
    sums_R = zero_R.index_add(0, index[members], torch.cat(found))
    loss = dpo(sums_R, zero_R.index_add(0, index, targets.recorded), batch.pairs, 0.7)
    names = list(trainer._parameters)
    expected = torch.autograd.grad(loss, [trainer._parameters[name] for name in names])
    monkeypatch.setattr(trainer._optimizer, "step", lambda: None)
    step = trainer._step(batch, targets, first=False)
    assert step.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    whole = torch.cat([gradient.flatten() for gradient in expected])
    mine = torch.cat([(trainer._parameters[name].grad + 0).flatten() for name in names])
    mine = mine * max(1.0, step.grad_norm)  # Undo the clipping.
    assert float((mine - whole).norm() / whole.norm()) < 1e-4


def test_best_of_n_makes_winners_likelier_and_works_without_logprobs(choices: list[Rollout], tiny_model: Path) -> None:
    bare = [replace(r, turns=tuple(replace(t, logprobs=None) for t in r.turns)) for r in choices]
    trainer = Trainer(tiny_model, spec_of("best_of_n"), None, threads=1)
    before = logprobs(trainer, bare, "best_of_n")
    assert trainer.train(bare)[0].gap == 0
    assert float((logprobs(trainer, bare, "best_of_n") - before).mean()) > 0


def test_kl_to_the_base_holds_back(choices: list[Rollout], tiny_model: Path) -> None:
    free, held = (
        Trainer(tiny_model, replace(LOOSE, algorithm="rloo", steps=12, kl_base=weight), None, threads=1)
        for weight in (1e-6, 5.0)
    )
    assert held.train(choices)[-1].kl_base < free.train(choices)[-1].kl_base / 2


def test_value_head_learns_returns_and_leaves_the_policy_alone(choices: list[Rollout], tiny_model: Path) -> None:
    trainer = Trainer(tiny_model, replace(spec_of("ppo"), steps=10, learning_rate=1e-9), None, threads=1)
    steps = trainer.train(choices)
    assert steps[-1].value_loss < steps[0].value_loss
    assert steps[-1].kl < 1e-6


def test_only_the_named_batch_is_trained_on(choices: list[Rollout], tiny_model: Path) -> None:
    Trainer(tiny_model, replace(LOOSE, batch=batch_digest(choices)), None, threads=1).train(choices)
    with pytest.raises(PolicyError, match="batch digest"):
        Trainer(tiny_model, replace(LOOSE, batch="0" * 64), None, threads=1).train(choices)


def test_loss_can_be_chosen_apart_from_the_advantage(choices: list[Rollout], tiny_model: Path) -> None:
    losses = [
        Trainer(tiny_model, replace(LOOSE, loss=name), None, threads=1).train(choices)[0].loss
        for name in (None, "clip", "cispo")
    ]
    assert losses[0] == losses[1] != losses[2]

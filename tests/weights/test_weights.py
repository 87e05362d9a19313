"""The weight lever on a tiny model has exact rows and gradients, resumes bit for bit, and learns."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Rollout, Turn, Unit, Verdict
from sia_core.policy.local import LocalPolicy
from sia_core.weights.groups import make_groups
from sia_core.weights.rows import Batch, make_batch
from sia_core.weights.spec import UpdateSpec, refuse
from sia_core.weights.trainer import Trainer
from tests.factories import ask, make_rollout

OPTIONS = ["red", "green", "blue"]
SPEC = UpdateSpec(None, 4, 2, 0.01, 4, 1.0, seed=7)


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> LocalPolicy:
    return LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)


def play(policy: LocalPolicy, adapter: Adapter | None, rounds: int, rollouts: int = 24) -> list[Rollout]:
    """Two-turn rollouts: a chain of choices in which blue, then green, is right."""
    played = []
    for number in range(rollouts):
        turns: list[Turn] = []
        said = ""
        for step in range(2):
            done = policy.sample(ask(f"Pick{said}:", OPTIONS, seed=1000 * rounds + 2 * number + step, adapter=adapter))
            said += f" {done.text}"
            turns.append(
                Turn(
                    "choose",
                    done.prompt,
                    done.text,
                    adapter.digest if adapter else None,
                    1.0,
                    done.prompt_ids,
                    done.output_ids,
                    done.logprobs,
                    done.allowed,
                )
            )
        score = 0.6 * (turns[0].output == "blue") + 0.4 * (turns[1].output == "green")
        unit = Unit("t", "h", policy.digest, adapter.digest if adapter else None, "train", f"p{number % 3}", number)
        played.append(Rollout(unit, tuple(turns), {}, Verdict(score)))
    return played


def naive_gradients(trainer: Trainer, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    """Compute the gradient token by token, with a forward pass for each, without sharing or batches."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.unit.problem, []).append(rollout)
    total = torch.zeros(())
    used = 0
    for group in groups.values():
        scores = [rollout.score or 0.0 for rollout in group]
        if max(scores) == min(scores):
            continue
        for rollout in group:
            used += 1
            advantage = (rollout.score or 0.0) - sum(scores) / len(scores)
            for turn in rollout.turns:
                ids = [*(turn.prompt_ids or ()), *(turn.output_ids or ())]
                for at, token in enumerate(turn.output_ids or ()):
                    allowed = (turn.allowed or ())[at]
                    if allowed is None or len(allowed) == 1:
                        continue
                    context = ids[: len(turn.prompt_ids or ()) + at]
                    logits = trainer._model(input_ids=torch.tensor([context])).logits[0, -1]
                    logprob = torch.log_softmax(logits[list(allowed)], -1)[allowed.index(token)]
                    total = total - (logprob - (turn.logprobs or ())[at]).exp() * advantage
    (total / used).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in trainer._parameters.items() if p.grad is not None}


def test_sampled_tokens_are_trained_once_and_forced_ones_never(policy: LocalPolicy) -> None:
    rollouts = play(policy, None, 0)
    batch = make_batch(rollouts, "dr_grpo")
    branching = sum(len(ids or ()) > 1 for rollout in rollouts for turn in rollout.turns for ids in turn.allowed or ())
    assert batch.constant_groups == 0
    assert len(batch.choices) == branching
    assert len(set(batch.sequences)) == len(batch.sequences) < len(rollouts)
    for one in batch.sequences:
        assert not any(other != one and other[: len(one)] == one for other in batch.sequences)


def test_order_of_arrival_does_not_matter(policy: LocalPolicy) -> None:
    rollouts = play(policy, None, 0)
    assert make_batch(rollouts[::-1], "dr_grpo") == make_batch(rollouts, "dr_grpo")


def test_constant_groups_and_unscored_rollouts_teach_nothing(policy: LocalPolicy) -> None:
    rollouts = [replace(r, verdict=Verdict(0.5)) if r.unit.problem == "p0" else r for r in play(policy, None, 0)]
    batch = make_batch(rollouts, "dr_grpo")
    assert (batch.constant_groups, batch.groups) == (1, 3)
    assert batch.rollouts == 16


def test_shared_contexts_give_the_gradient_of_the_naive_loop(
    policy: LocalPolicy, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = play(policy, None, 0)
    shared, naive = (Trainer(tiny_model, SPEC, None, threads=1) for _ in range(2))
    with torch.no_grad():  # A fresh LoRA has B = 0 and so no gradient in A: move both off it.
        for trainer in (shared, naive):
            torch.manual_seed(3)
            for parameter in trainer._parameters.values():
                parameter.add_(torch.randn_like(parameter) * 0.001)
    batch = make_batch(rollouts, "dr_grpo")
    expected = naive_gradients(naive, rollouts)
    monkeypatch.setattr("sia_core.weights.trainer.MAX_GRAD_NORM", 1e9)
    monkeypatch.setattr(shared._optimizer, "step", lambda: None)
    shared._step(batch, shared._targets(batch), first=False)
    for name, gradient in expected.items():
        found = shared._parameters[name].grad
        assert found is not None
        assert float((found - gradient).norm() / gradient.norm().clamp_min(1e-12)) < 1e-4, name
    whole = torch.cat([g.flatten() for g in expected.values()])
    found = torch.cat([shared._parameters[name].grad.flatten() for name in expected])
    assert float((found - whole).norm() / whole.norm()) <= 1e-5


def test_trainer_recomputes_what_the_engine_recorded(policy: LocalPolicy, tiny_model: Path) -> None:
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    first, *_ = trainer.train(play(policy, None, 0))
    assert first.gap < 1e-4
    assert 0 < first.entropy < math.log(3)


def test_rollouts_of_another_policy_are_refused(policy: LocalPolicy, tiny_model: Path) -> None:
    rollouts = [
        replace(r, turns=tuple(replace(t, logprobs=tuple(p - 0.5 for p in t.logprobs or ())) for t in r.turns))
        for r in play(policy, None, 0)
    ]
    with pytest.raises(PolicyError, match="not sampled by this base and adapter"):
        Trainer(tiny_model, SPEC, None, threads=1).train(rollouts)


@pytest.mark.parametrize("broken", [float("nan"), float("-inf")])
def test_logprobs_that_are_no_numbers_are_refused(policy: LocalPolicy, tiny_model: Path, broken: float) -> None:
    first, *rest = play(policy, None, 0)
    turn = replace(first.turns[0], logprobs=tuple(broken for _ in first.turns[0].logprobs or ()))
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    before = {name: parameter.clone() for name, parameter in trainer._parameters.items()}
    with pytest.raises(PolicyError, match="logprobs differ"):
        trainer.train([replace(first, turns=(turn, *first.turns[1:])), *rest])
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer._parameters.items())


def talk(policy: LocalPolicy, prompt: str, rollouts: int, tokens: int) -> list[Rollout]:
    """Rollouts with a single turn of free text."""
    played = []
    for number in range(rollouts):
        done = policy.sample(ask(prompt, seed=number, max_tokens=tokens))
        ids = (done.prompt_ids, done.output_ids, done.logprobs, None)
        turn = Turn("chat", done.prompt, done.text, None, 1.0, *ids)
        unit = Unit("t", "h", policy.digest, None, "train", f"p{number % 2}", number)
        played.append(Rollout(unit, (turn,), {}, Verdict(len(done.text) / 100)))
    return played


def test_free_text_is_trained_too(policy: LocalPolicy, tiny_model: Path) -> None:
    rollouts = talk(policy, "Say:", 12, 9)
    first, *_ = Trainer(tiny_model, SPEC, None, threads=1).train(rollouts)
    assert first.gap < 1e-4
    assert first.choices == sum(len(rollout.turns[0].output_ids or ()) for rollout in rollouts)


def test_round_stops_before_it_strays_further(policy: LocalPolicy, tiny_model: Path, tmp_path: Path) -> None:
    rollouts = play(policy, None, 0)
    trainer = Trainer(tiny_model, replace(SPEC, steps=9, learning_rate=0.05, max_kl=0.01), None, threads=1)
    one = Trainer(tiny_model, replace(SPEC, steps=1, learning_rate=0.05, max_kl=0.01), None, threads=1)
    steps = trainer.train(rollouts)
    one.train(rollouts)
    assert len(steps) == 2
    assert steps[1].kl > 0.01
    for name, parameter in trainer._parameters.items():
        assert torch.equal(parameter, one._parameters[name]), name


def test_groups_are_of_one_candidate() -> None:
    ours = [make_rollout("a", seed, 0.2) for seed in range(2)]
    other = [replace(r, unit=replace(r.unit, adapter="x"), verdict=Verdict(0.9)) for r in ours]
    assert len(make_groups([*ours, *other])) == 2
    assert make_batch([*ours, *other], "dr_grpo").constant_groups == 2


def test_training_raises_the_chance_of_what_is_right_and_is_served(
    policy: LocalPolicy, tiny_model: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    adapter: Adapter | None = None
    means = []
    for number in range(1, 9):
        rollouts = play(policy, adapter, number)
        means.append(sum(r.score or 0.0 for r in rollouts) / len(rollouts))
        steps = trainer.train(rollouts)
        adapter = trainer.save(tmp_path / f"round-{number}", steps)
    final = play(policy, adapter, 99)
    mean = sum(r.score or 0.0 for r in final) / len(final)
    assert mean > means[0] + 0.2, means
    assert all(turn.adapter == adapter.digest for r in final for turn in r.turns)  # type: ignore[union-attr]


def test_resumed_training_is_bit_exact(policy: LocalPolicy, tiny_model: Path, tmp_path: Path) -> None:
    rollouts = play(policy, None, 0)
    spec = replace(SPEC, max_gap=9.0)
    straight = Trainer(tiny_model, spec, None, threads=1)
    digests = [straight.save(tmp_path / f"a{n}", straight.train(rollouts)).digest for n in range(4)]
    for start in (1, 2):
        resumed = Trainer(tiny_model, spec, None, threads=1)
        resumed.load(tmp_path / f"a{start - 1}")
        assert resumed.round == start
        again = [resumed.save(tmp_path / f"b{n}", resumed.train(rollouts)).digest for n in range(start, 4)]
        assert again == digests[start:]


def test_two_trainings_give_the_same_bits_with_several_threads(policy: LocalPolicy, tiny_model: Path) -> None:
    # Many choices after the same context: their gradients meet in one row, and are more than one thread's work.
    played = play(policy, None, 0)
    rollouts = [replace(r, unit=replace(r.unit, seed=100 * n + r.unit.seed)) for n in range(30) for r in played]
    found: list[torch.Tensor] = []
    for _ in range(3):
        torch.use_deterministic_algorithms(False)  # As in the trainer's own process.
        trainer = Trainer(tiny_model, replace(SPEC, max_gap=9.0), None, threads=4)
        trainer.train(rollouts)
        found.append(torch.cat([parameter.flatten() for parameter in trainer._parameters.values()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_checkpoint_of_another_update_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    Trainer(tiny_model, SPEC, None, threads=1).save(tmp_path / "c", [])
    with pytest.raises(PolicyError, match="spec_id"):
        Trainer(tiny_model, replace(SPEC, seed=8), None, threads=1).load(tmp_path / "c")


def test_adapter_can_be_trained_further(policy: LocalPolicy, tiny_model: Path, tmp_path: Path) -> None:
    first = Trainer(tiny_model, SPEC, None, threads=1)
    parent = first.save(tmp_path / "parent", first.train(play(policy, None, 0)))
    child = Trainer(tiny_model, replace(SPEC, parent_adapter=parent.digest), parent.path, threads=1)
    steps = child.train(play(policy, parent, 1))
    assert steps[0].gap < 1e-4
    assert child.save(tmp_path / "child", steps).digest != parent.digest


def test_adapters_are_the_same_bytes_on_every_machine(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    digests = {
        Trainer(base, SPEC, None, threads=1).save(tmp_path / str(n), []).digest
        for n, base in enumerate((tiny_model, moved))
    }
    assert len(digests) == 1
    config = (tmp_path / "1" / "adapter" / "adapter_config.json").read_bytes()
    assert b"elsewhere" not in config
    # PEFT writes a set, in an order of this process alone.
    modules = json.loads(config)["target_modules"]
    assert modules == sorted(modules)
    assert not any("lm_head" in name or "embed" in name for name in modules)


def test_only_the_parent_that_was_named_is_trained_further(tiny_model: Path, tmp_path: Path) -> None:
    parent = Trainer(tiny_model, SPEC, None, threads=1).save(tmp_path / "parent", [])
    with pytest.raises(PolicyError, match="expected " + "0" * 64):
        Trainer(tiny_model, replace(SPEC, parent_adapter="0" * 64), parent.path, threads=1)
    with pytest.raises(PolicyError, match="expected parent adapter"):
        Trainer(tiny_model, replace(SPEC, parent_adapter=parent.digest), None, threads=1)


@pytest.mark.parametrize(
    ("rollouts", "words"),
    [
        ([make_rollout("a", 0, 0.1), make_rollout("a", 1, 0.9)], "1 groups"),
        ([make_rollout(p, s, 0.5) for p in "ab" for s in range(2)], "all 2 groups are constant"),
        ([make_rollout(p, s, s / 2, trainable=False) for p in "ab" for s in range(2)], "no rollout has token ids"),
        ([make_rollout(p, s, failure="worker") for p in "ab" for s in range(2)], "0 groups"),
    ],
)
def test_updates_that_cannot_work_are_refused(rollouts: list[Rollout], words: str) -> None:
    reason = refuse(rollouts, SPEC)
    assert reason is not None
    assert words in reason


def test_sound_batch_is_not_refused() -> None:
    rollouts = [make_rollout(p, s, s / 2) for p in "ab" for s in range(2)]
    assert refuse(rollouts, SPEC) is None
    assert "temperature" in (refuse(rollouts, replace(SPEC, temperature=0.5)) or "")


def test_empty_batch_makes_no_step(tiny_model: Path) -> None:
    constant = [make_rollout(p, s, 0.5) for p in "ab" for s in range(2)]
    assert Trainer(tiny_model, SPEC, None, threads=1).train(constant) == []
    assert isinstance(make_batch(constant, "dr_grpo"), Batch)

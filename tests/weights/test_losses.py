"""Every loss against hand-computed values, and logprobs of choices, free and restricted, against the plain formula."""

import math
from dataclasses import replace

import pytest
import torch

from sia_core.weights.losses import PolicyLoss, choice_logprobs, dpo, kl_to_base, kto, policy_loss, value_loss
from sia_core.weights.spec import UpdateSpec

ALLOWED = [(1, 4), None, (0, 2, 3), None, (4, 1)]
ROWS = [0, 1, 0, 2, 2]
TOKENS = [4, 3, 0, 0, 1]


@pytest.mark.parametrize("members", [range(5), [0, 2, 4], [1, 3]])
def test_restricted_and_free_choices_in_one_batch(members: list[int]) -> None:
    logit_KV = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    logprob_N, entropy_N = choice_logprobs(
        logit_KV,
        torch.tensor([ROWS[at] for at in members]),
        torch.tensor([TOKENS[at] for at in members]),
        [ALLOWED[at] for at in members],
        0.7,
    )
    for place, at in enumerate(members):
        ids = list(ALLOWED[at] or range(6))
        expected = torch.log_softmax(logit_KV.detach()[ROWS[at], ids] / 0.7, -1)
        assert float(logprob_N[place].detach()) == pytest.approx(float(expected[ids.index(TOKENS[at])]), abs=1e-6)
        assert float(entropy_N[place]) == pytest.approx(float(-(expected.exp() * expected).sum()), abs=1e-6)
    logprob_N.sum().backward()  # type: ignore[no-untyped-call]
    assert logit_KV.grad is not None
    assert torch.isfinite(logit_KV.grad).all()


LOGS = torch.log(torch.tensor([1.1, 1.27, 1.5, 0.9, 0.81, 0.5, 4.0]))
SIGNS = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
SPEC = UpdateSpec(None, 1, 1, 0.01, 4, 1.0, seed=0)


def loss(name: str, spec: UpdateSpec = SPEC, weight: torch.Tensor | None = None) -> tuple[PolicyLoss, torch.Tensor]:
    """Return the loss of the ratios in LOGS, and its gradient by the logprobs."""
    logprob_N = LOGS.clone().requires_grad_()
    weight_N = torch.ones(7) if weight is None else weight
    found = policy_loss(name, logprob_N, torch.zeros(7), SIGNS, weight_N, spec)
    (gradient_N,) = torch.autograd.grad(found.loss, logprob_N)
    return found, gradient_N


def test_clip_is_asymmetric_and_pessimistic() -> None:
    found, gradient_N = loss("clip")
    assert float(found.loss.detach()) == pytest.approx(-(1.1 + 1.27 + 1.28) + (0.9 + 0.81 + 0.8 + 4.0), rel=1e-6)
    assert found.clipped == 2
    assert gradient_N.tolist() == pytest.approx([-1.1, -1.27, 0, 0.9, 0.81, 0, 4.0], rel=1e-6)


def test_dual_clip_bounds_the_loss_of_a_losing_choice() -> None:
    found, gradient_N = loss("clip", replace(SPEC, dual_clip=3.0))
    assert float(found.loss.detach()) == pytest.approx(-(1.1 + 1.27 + 1.28) + (0.9 + 0.81 + 0.8 + 3.0), rel=1e-6)
    assert found.clipped == 3
    assert float(gradient_N[-1]) == 0


def test_truncated_importance_weights_keep_their_gradient() -> None:
    found, gradient_N = loss("importance")
    assert gradient_N.tolist() == pytest.approx([-1.1, -1.27, -1.5, 0.9, 0.81, 0.5, 2.0], rel=1e-6)
    assert float(found.loss.detach()) == pytest.approx(sum(gradient_N.tolist()), rel=1e-6)
    assert found.clipped == 1


def test_cispo_clips_the_weight_and_keeps_the_gradient() -> None:
    found, gradient_N = loss("cispo")
    assert gradient_N.tolist() == pytest.approx([-1.1, -1.27, -1.28, 0.9, 0.81, 0.8, 1.28], rel=1e-6)
    assert found.clipped == 3


def test_cross_entropy_takes_no_notice_of_the_ratio() -> None:
    _, gradient_N = loss("cross_entropy")
    assert gradient_N.tolist() == [-1, -1, -1, 1, 1, 1, 1]


def test_weights_and_what_is_watched() -> None:
    found, gradient_N = loss("cross_entropy", weight=torch.arange(7.0))
    assert gradient_N.tolist() == [0, -1, -2, 3, 4, 5, 6]
    ratios = LOGS.exp()
    assert found.kl == pytest.approx(float((ratios - 1 - LOGS).sum()), rel=1e-5)
    assert found.gap == pytest.approx(float(LOGS.abs().sum()), rel=1e-6)


def test_kl_to_base_is_zero_and_flat_where_they_agree() -> None:
    logprob_N = torch.tensor([-1.0, -1.0], requires_grad=True)
    kl_N = kl_to_base(logprob_N, torch.tensor([-1.0, -2.0]))
    assert kl_N.tolist() == pytest.approx([0.0, math.exp(-1)])
    (gradient_N,) = torch.autograd.grad(kl_N.sum(), logprob_N)
    assert gradient_N.tolist() == pytest.approx([0.0, 1 - math.exp(-1)])


def test_value_loss_stops_pulling_beyond_its_range() -> None:
    value_N = torch.tensor([1.0, 0.4], requires_grad=True)
    found_N = value_loss(value_N, torch.zeros(2), torch.tensor([2.0, 2.0]), 0.5)
    # The first is clipped to 0.5 and its loss is that of 0.5; the second is within the range.
    assert found_N.tolist() == pytest.approx([0.5 * 1.5**2, 0.5 * 1.6**2])
    (gradient_N,) = torch.autograd.grad(found_N.sum(), value_N)
    assert gradient_N.tolist() == pytest.approx([0.0, -1.6])


def test_dpo_and_kto_match_values_by_hand() -> None:
    logprob_R, reference_R = torch.tensor([-1.0, -4.0, -2.0]), torch.tensor([-2.0, -3.0, -2.0])
    expected = -math.log(1 / (1 + math.exp(-0.5 * 2)))
    assert float(dpo(logprob_R, reference_R, [(0, 1)], 0.5)) == pytest.approx(expected)
    # Ratios 1, -1, 0; their mean 0 is the shift.
    good, bad, even = (1 - 1 / (1 + math.exp(-x)) for x in (0.5, 0.5, 0.0))
    found = float(kto(logprob_R, reference_R, [True, False, True], 0.5))
    assert found == pytest.approx((good + bad + even) / 3)

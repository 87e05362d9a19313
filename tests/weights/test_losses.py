"""Logprobs of choices, free and restricted, against the plain formula."""

import pytest
import torch

from sia_core.weights.losses import choice_logprobs

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

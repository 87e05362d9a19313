"""Packed contexts feed shared beginnings once, and every node sees only its own path."""

from pathlib import Path

import pytest
import torch

from sia_core.policy.local import load_base
from sia_core.weights.packing import pack

SEQUENCES = [(5, 6, 7, 8), (5, 6, 9), (5, 6, 9, 9, 9), (4,), (5, 6, 7, 1)]


@pytest.mark.parametrize("budget", [0, 1, 4, 6, 7, 100])
def test_every_sequence_is_laid_out_whole(budget: int) -> None:
    found = {}
    for part in pack(SEQUENCES, budget):
        assert len(part.ids) <= budget or len(part.paths) == 1
        for index, path in part.paths.items():
            found[index] = tuple(part.ids[node] for node in path)
            assert [part.depths[node] for node in path] == list(range(len(path)))
            seen = part.mask(torch.float32)[0, 0][path[-1]] == 0
            assert seen.nonzero().flatten().tolist() == path
    assert [found[index] for index in range(len(SEQUENCES))] == SEQUENCES


def test_beginnings_are_shared() -> None:
    (part,) = pack(SEQUENCES, 100)
    assert len(part.ids) == 9
    assert list(pack([], 100)) == []


def test_logits_are_those_of_the_sequence_alone(tiny_model: Path) -> None:
    model = load_base(tiny_model).eval()
    (part,) = pack(SEQUENCES, 100)
    with torch.inference_mode():
        packed_NV = model(
            input_ids=torch.tensor([part.ids]),
            position_ids=torch.tensor([part.depths]),
            attention_mask=part.mask(torch.float32),
        ).logits[0]
        for index, ids in enumerate(SEQUENCES):
            alone_TV = model(input_ids=torch.tensor([ids])).logits[0]
            torch.testing.assert_close(packed_NV[part.paths[index]], alone_TV, atol=1e-5, rtol=1e-4)

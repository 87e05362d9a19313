"""Many contexts as one sequence: a trie of ids laid out node by node, each node fed once.

A node sees itself and its ancestors only, and its position is its depth. So the logits at a node
depend only on the ids on its path, as in a separate sequence, and common beginnings of contexts
(instructions, a problem's text) are computed once. Exact for models whose layers all attend to
the whole context.

Suffix N: nodes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq

import torch

Ids = tuple[int, ...]


@dataclass
class Pack:
    """Some of a batch's sequences."""

    ids: list[int] = field(default_factory=list)
    """Token of each node."""
    parents: list[int] = field(default_factory=list)
    """Parent of each node; -1 at the beginning of a sequence."""
    depths: list[int] = field(default_factory=list)
    """Depth of each node: its position in every sequence that contains the node."""
    paths: dict[int, list[int]] = field(default_factory=dict)
    """Index of a sequence -> node of each of its positions."""

    def add(self, index: int, ids: Ids, shared: Sequence[int]) -> None:
        """Lay out a sequence that begins with the nodes `shared`."""
        path = list(shared)
        for depth in range(len(shared), len(ids)):
            self.parents.append(path[-1] if path else -1)
            self.depths.append(depth)
            path.append(len(self.ids))
            self.ids.append(ids[depth])
        self.paths[index] = path

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Mask to add to attention scores: 0 where a node may look, else -inf, shape (1, 1, N, N).

        The dtype's smallest number, which models often use, does not work: the sum of two of them overflows in
        bf16. Every node sees itself, so that no softmax is over -inf alone.
        """
        seen_NN = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen_NN[node] |= seen_NN[parent]
        return torch.zeros(seen_NN.shape, dtype=dtype).masked_fill_(~seen_NN, float("-inf"))[None, None]


def pack(sequences: Sequence[Ids], budget: int) -> Iterator[Pack]:
    """Yield all sequences in packs of at most `budget` nodes; a longer sequence is alone in its pack, never cut."""
    current, last = Pack(), -1
    for index in sorted(range(len(sequences)), key=lambda index: sequences[index]):
        ids = sequences[index]
        # In sorted order, no earlier sequence has a longer common beginning with `ids` than the last one.
        common = _common(sequences[last], ids) if current.paths else 0
        if current.paths and len(current.ids) + len(ids) - common > budget:
            yield current
            current, common = Pack(), 0
        current.add(index, ids, current.paths[last][:common] if common else ())
        last = index
    if current.paths:
        yield current


def _common(first: Ids, second: Ids) -> int:
    return sum(1 for _ in takewhile(bool, map(eq, first, second)))

"""Keys and values of one sequence, and attention of many sequences in one forward pass.

Every sequence has its own cache. In a joined pass, each row of the batch is one new token of
another sequence: linear layers are computed for all rows at once, attention row by row over the
row's own cache. There is no padding within a row, no mask, and nothing to copy when a sequence
joins or leaves.
"""

import copy
from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

JOINED: Final = "sia_joined"
"""Name of the attention implementation that accepts `joined_caches`."""

_ROOM = 64


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that grows by half its length at a time; a DynamicLayer copies itself for every token."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Append along the positions; return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._grow(end, key_states, value_states)
        assert self._buffers is not None
        keys, values = self._buffers
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _grow(self, needed: int, *like: torch.Tensor) -> None:
        # A prompt is often read once and kept, so it gets little room.
        size = needed + (_ROOM if self._buffers is None else max(_ROOM, needed // 2))
        keys, values = (new.new_empty(*new.shape[:-2], size, new.shape[-1]) for new in like)
        if self._buffers is not None:
            length = self.get_seq_length()
            keys[..., :length, :] = self._buffers[0][..., :length, :]
            values[..., :length, :] = self._buffers[1][..., :length, :]
        self._buffers = keys, values


def new_cache(config: Any) -> DynamicCache:
    """Create an empty cache for one sequence."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def fork(cache: DynamicCache) -> DynamicCache:
    """Copy a cache."""
    return copy.deepcopy(cache)


def plain(cache: DynamicCache) -> bool:
    """Return True if every layer keeps every position: no sliding window, no recurrent state."""
    return all(type(layer) is GrowingLayer for layer in cache.layers)


def nbytes(cache: DynamicCache) -> int:
    """Return the bytes of memory that a cache takes."""
    parts = [part for layer in cache.layers for part in vars(layer).values()]
    return sum(part.untyped_storage().nbytes() for part in parts if isinstance(part, torch.Tensor))


def _joined_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    joined_caches: Sequence[DynamicCache] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the usual attention; with `joined_caches`, row i is the next token of the sequence of the i-th cache."""
    if joined_caches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, heads, _, _ = query.shape
    result = query.new_zeros(rows, 1, heads, value.shape[-1])
    layer: Any = module.layer_idx
    for row, cache in enumerate(joined_caches):
        this = slice(row, row + 1)
        keys, values = cache.update(key[this], value[this], layer)
        result[this] = sdpa_attention_forward(module, query[this], keys, values, None, **options)[0]
    return result, None


AttentionInterface.register(JOINED, _joined_attention)
AttentionMaskInterface.register(JOINED, sdpa_mask)

"""Check by the logprobs of a frozen text that the engine serves the trained adapter. Loads no torch.

Trainer and engine may round differently (bf16, another server), so equality is not required. The engine's logprobs
must be near the trainer's of this adapter, and nearer than to those of any other adapter that could be served by
mistake: an earlier round's, or the parent's.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

Probe = Sequence[float]
"""Logprob of each token of the text except the first."""


def why_not_served(served: Probe, trained: Probe, others: Mapping[str, Probe], limit: float) -> str | None:
    """Return the reason why the engine cannot be serving the adapter, or None.

    Args:
        served: the engine's logprobs with the adapter.
        trained: the trainer's logprobs with the adapter.
        others: logprobs of other adapters, by a name for people; equal logprobs are the same adapter.
        limit: greatest mean difference.
    """
    off = distance(served, trained)
    if not off <= limit:
        return f"the engine's logprobs of the probe differ from the trainer's by {off:.2g} on average (limit {limit:g})"
    rivals = {name: distance(served, other) for name, other in others.items() if tuple(other) != tuple(trained)}
    nearest = min(rivals, key=lambda name: rivals[name], default=None)
    if nearest is not None and rivals[nearest] <= off:
        return f"the engine's logprobs of the probe are nearest to {nearest}'s: the new adapter is not served"
    return None


def distance(first: Probe, second: Probe) -> float:
    """Mean absolute difference; infinite if the numbers of tokens differ."""
    if len(first) != len(second) or not first:
        return float("inf")
    return fmean(abs(one - other) for one, other in zip(first, second, strict=True))

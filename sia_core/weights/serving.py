"""Is what the engine serves what was trained? Judged by logprobs of a frozen text; loads no torch.

Trainer and engine may round otherwise (bf16, another server), so equality is too much to ask. What is asked: the
engine's logprobs are near the trainer's of this adapter, and nearer than to those of any other adapter that could
have been served by mistake, an earlier round's or the parent's.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

Probe = Sequence[float]
"""Logprob of each token of the text but the first."""


def why_not_served(served: Probe, trained: Probe, others: Mapping[str, Probe], limit: float) -> str | None:
    """Why an adapter cannot be the one that the engine serves, or None.

    Args:
        served: the engine's, asked for the adapter.
        trained: the trainer's of the adapter.
        others: of what might be served in its place, by a name for people. Equal ones are the same adapter.
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
    """Mean absolute difference; infinite where the texts are not the same."""
    if len(first) != len(second) or not first:
        return float("inf")
    return fmean(abs(one - other) for one, other in zip(first, second, strict=True))

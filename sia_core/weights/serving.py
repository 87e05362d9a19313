"""Check by the logprobs of a frozen text that the engine serves the trained adapter. Loads no torch.

Trainer and engine may round differently (bf16, another server), so equality is not required. The engine's logprobs
must be near the trainer's of this adapter, and nearer than to those of any other adapter that could be served by
mistake: an earlier round's, or the parent's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import dist, hypot, inf, isfinite
from statistics import fmean

from sia_core.policy.probes import Probe, distance

GREATEST_ERROR = 0.5
"""Greatest error of a served adapter's effect, as a share of the effect."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of a server with the trainer on a frozen text, measured before a run spends anything."""

    gap: float
    """Mean difference of the bare model's logprobs."""
    greatest: float
    """Greatest difference of the bare model's logprobs."""
    effect: float
    """Mean change of the logprobs by a reference adapter, in the trainer."""
    error: float
    """Error of the server's changes as a share of the trainer's, both as root mean squares; 1 for a bare model."""


def agreement(served: Probe, served_adapted: Probe, trained: Probe, trained_adapted: Probe) -> Agreement:
    """Compare a server with the trainer, bare and with the reference adapter."""
    changes = [after - before for before, after in zip(trained, trained_adapted, strict=True)]
    seen = [after - before for before, after in zip(served, served_adapted, strict=True)]
    return Agreement(
        gap=distance(served, trained),
        greatest=max(abs(one - other) for one, other in zip(served, trained, strict=True)),
        effect=fmean(map(abs, changes)),
        error=dist(seen, changes) / whole if (whole := hypot(*changes)) else inf,
    )


def why_not_trainable(found: Agreement, limit: float) -> str | None:
    """Return the reason why weights trained here would not be those that the server serves, or None.

    Args:
        found: agreement of server and trainer.
        limit: greatest mean difference of the bare model's logprobs.
    """
    if not isfinite(found.gap) or not isfinite(found.error):
        return "the server's logprobs are not finite numbers"
    if found.gap > limit:
        return f"the server's logprobs differ from the trainer's by {found.gap:.2g} on average (limit {limit:g})"
    if found.error > GREATEST_ERROR:
        return f"the server is off by {found.error:.0%} of an adapter's effect (limit {GREATEST_ERROR:.0%})"
    return None


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

"""Decide when to end an update early, and which round's adapter to keep. Pure functions on metrics; loads no torch.

A history holds the metrics that `TrainerHandle.round` returned, one list of steps a round. The rewards of round n
are those of the rollouts it trained on, sampled by the adapter of round n - 1: round 1 measures the parent, and the
last round's adapter has not been measured.
"""

from collections.abc import Mapping, Sequence

from sia_core.weights.spec import UpdateSpec

History = Sequence[Sequence[Mapping[str, float]]]

SIGMAS = 2.0
"""Number of standard errors below the best reward from which a reward has fallen."""


def stop_reason(history: History, spec: UpdateSpec) -> str | None:
    """Return the reason why no further round should follow, or None."""
    rounds = [steps for steps in history if steps]
    if len(rounds) < len(history):
        return "every group was constant: the policy has settled"
    if not rounds:
        return None
    drift = sum(max(step["kl"] for step in steps) for steps in rounds)
    if drift > spec.max_drift:
        return f"the rounds' KL adds up to {drift:.3g}, above {spec.max_drift:g}"
    first, last = rounds[0][0]["entropy"], rounds[-1][-1]["entropy"]
    if last < spec.min_entropy * first:
        return f"the entropy fell from {first:.3g} to {last:.3g}, below {spec.min_entropy:.0%} of what it was"
    return _fallen(rounds)


def _fallen(rounds: History) -> str | None:
    best = max(rounds, key=lambda steps: steps[0]["reward"])[0]
    now = rounds[-1][0]
    noise = (best["reward_error"] ** 2 + now["reward_error"] ** 2) ** 0.5
    if best["reward"] - now["reward"] > SIGMAS * noise:
        return f"the reward fell from {best['reward']:.4g} to {now['reward']:.4g} (standard error {noise:.2g})"
    return None


def best_round(history: History, spec: UpdateSpec) -> int:
    """Return the round whose adapter to keep, counted from 1; 0 keeps the parent.

    The last round is kept, unless KL, entropy or reward ended the rounds: then the best measured one before that.
    """
    if not history or stop_reason(history, spec) is None or not history[-1]:
        return len(history)
    sound = [number for number in range(len(history)) if stop_reason(history[:number], spec) is None]
    return max(sound, key=lambda number: (history[number][0]["reward"], number))

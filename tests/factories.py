"""Records for tests, with sensible defaults."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.rollout import Failure, Rollout, Sampling, Turn, Unit, Verdict
from sia_core.domain.stats import Estimate, Gain
from sia_core.policy.protocol import Request
from sia_core.record.phases import Figures, SealedDone

TOY = str(Path(__file__).parent / "toy")


def ask(
    text: str,
    options: Sequence[str] | None = None,
    *,
    seed: int = 0,
    adapter: Adapter | None = None,
    temperature: float = 1.0,
    max_tokens: int = 256,
) -> Request:
    """A request with a single user message."""
    messages = ({"role": "user", "content": text},)
    return Request(
        messages, Sampling(temperature, max_tokens), seed, adapter, None if options is None else tuple(options)
    )


def make_rollout(
    problem: str = "p0", seed: int = 0, score: float = 0.5, failure: str | None = None, *, trainable: bool = True
) -> Rollout:
    """A finished rollout with a single choose turn."""
    ids = ((1, 2), (3,), (-0.7,), ((3, 4),)) if trainable else (None, None, None, None)
    return Rollout(
        unit=Unit("task", "harness", "policy", None, "train", problem, seed),
        turns=(Turn("choose", "prompt", "a", None, 1.0, *ids),),
        answer={"x": 1},
        verdict=None if failure else Verdict(score),
        failure=Failure(failure, "because") if failure else None,
        seconds=0.1,
    )


def sealed(*, node: int, report: Mapping[str, Figures] | None = None) -> SealedDone:
    """A sealed test as it is stored."""
    score = Estimate(0.5, 0.4, 0.6, 3, 6)
    gain = Gain(0.2, 0.1, 0.1, 0.3, 3)
    return SealedDone(node=node, candidate=Candidate("h"), final=score, seed=score, gain=gain, report=report or {})

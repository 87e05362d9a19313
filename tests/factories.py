"""Records for tests, with sensible defaults."""

from sia_core.rollout import Failure, Rollout, Turn, Unit, Verdict


def make_rollout(
    problem: str = "p0", seed: int = 0, score: float = 0.5, failure: str | None = None, *, trainable: bool = True
) -> Rollout:
    """A finished rollout of one choose turn."""
    ids = ((1, 2), (3,), (-0.7,), ((3, 4),)) if trainable else (None, None, None, None)
    return Rollout(
        unit=Unit("task", "harness", "policy", None, "train", problem, seed),
        turns=(Turn("choose", "prompt", "a", None, 1.0, *ids),),
        answer={"x": 1},
        verdict=None if failure else Verdict(score),
        failure=Failure(failure, "because") if failure else None,
        seconds=0.1,
    )

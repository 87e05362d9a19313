"""Evidence is counted by hand on small groups."""

import pytest

from sia_core.agents.evidence import gather, scores_by_problem
from sia_core.domain.candidate import Candidate
from tests.factories import make_rollout

CANDIDATE = Candidate("h")
ROLLOUTS = [
    make_rollout("a", 0, 0.2),
    make_rollout("a", 1, 0.6),
    make_rollout("b", 0, 0.4),
    make_rollout("b", 1, 0.4),
    make_rollout("c", 0, failure="timeout"),
    make_rollout("c", 1, 0.8),
    make_rollout("d", 0, 0.3),
    make_rollout("d", 1, failure="worker"),
]


def test_evidence_counts_scores_failures_and_unscored_rollouts() -> None:
    evidence = gather(CANDIDATE, ROLLOUTS, confidence=0.9, seed=0)
    assert evidence.score.mean == pytest.approx((0.4 + 0.4 + 0.4 + 0.3) / 4)
    assert evidence.best_of == pytest.approx((0.6 + 0.4 + 0.8 + 0.3) / 4)
    assert (evidence.mixed, evidence.constant) == (0.5, 0.5)
    assert evidence.failures == {"timeout": pytest.approx(1 / 7)}
    assert evidence.unscored == 1
    assert evidence.trainable


def test_failures_are_read_first() -> None:
    evidence = gather(CANDIDATE, ROLLOUTS, confidence=0.9, seed=0)
    assert evidence.examples[0] == ROLLOUTS[4].unit.key


def test_order_of_arrival_does_not_matter() -> None:
    assert gather(CANDIDATE, ROLLOUTS[::-1], confidence=0.9, seed=0) == gather(
        CANDIDATE, ROLLOUTS, confidence=0.9, seed=0
    )


def test_infrastructure_failures_are_not_zeros() -> None:
    assert scores_by_problem(ROLLOUTS)["d"] == [0.3]


def test_turns_without_ids_cannot_be_trained_on() -> None:
    assert not gather(CANDIDATE, [make_rollout(trainable=False)], confidence=0.9, seed=0).trainable

"""The policy without a model."""

from collections import Counter

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.policy.scripted import ScriptedPolicy
from tests.factories import ask


def test_reply_depends_on_the_seed_alone() -> None:
    for seed in range(20):
        first, again = (ScriptedPolicy().sample(ask("Pick", ["a", "b", "c"], seed=seed)) for _ in range(2))
        assert first == again
        assert ScriptedPolicy().sample(ask("Pick", seed=seed)) == ScriptedPolicy().sample(ask("Pick", seed=seed))


def test_options_are_equally_likely() -> None:
    picks = Counter(ScriptedPolicy().sample(ask("Pick", ["a", "b", "c"], seed=seed)).text for seed in range(3000))
    assert all(abs(count - 1000) < 120 for count in picks.values()), picks


def test_scripted_policy_records_nothing_to_train_on() -> None:
    done = ScriptedPolicy().sample(ask("Pick", ["a", "b"]))
    assert (done.prompt_ids, done.output_ids, done.logprobs) == (None, None, None)
    assert not ScriptedPolicy.trainable


@pytest.mark.parametrize("options", [[], ["a", "a"]])
def test_invalid_options_are_refused(options: list[str]) -> None:
    with pytest.raises(PolicyError):
        ScriptedPolicy().sample(ask("Pick", options))

"""The policy without a model."""

from collections import Counter

import pytest

from sia_core.errors import PolicyError
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.rollout import Sampling

MESSAGES = [{"role": "user", "content": "Pick"}]


def test_the_seed_alone_decides() -> None:
    for seed in range(20):
        first, again = (ScriptedPolicy().choose(MESSAGES, ["a", "b", "c"], Sampling(), seed) for _ in range(2))
        assert first == again
        assert ScriptedPolicy().chat(MESSAGES, Sampling(), seed) == ScriptedPolicy().chat(MESSAGES, Sampling(), seed)


def test_options_are_equally_likely() -> None:
    picks = Counter(ScriptedPolicy().choose(MESSAGES, ["a", "b", "c"], Sampling(), seed).text for seed in range(3000))
    assert all(abs(count - 1000) < 120 for count in picks.values()), picks


def test_it_records_nothing_to_train_on() -> None:
    done = ScriptedPolicy().choose(MESSAGES, ["a", "b"], Sampling(), 0)
    assert (done.prompt_ids, done.output_ids, done.logprobs) == (None, None, None)
    assert not ScriptedPolicy.trainable


@pytest.mark.parametrize("options", [[], ["a", "a"]])
def test_options_that_cannot_be_chosen_from(options: list[str]) -> None:
    with pytest.raises(PolicyError):
        ScriptedPolicy().choose(MESSAGES, options, Sampling(), 0)

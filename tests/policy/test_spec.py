"""Specs of policies behind a server are parsed, checked for their needs, and refused before anything is spent."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from sia_core.domain.errors import PolicyError, UsageError
from sia_core.policy.registry import base_directory, check_spec, load_policy, policy_digest, prepare_policy
from sia_core.policy.spec import NO_KEY, parse_spec

KEY = "sk-secret-91c2"
LIGHT = """
import sys
from sia_core.policy.registry import check_spec, policy_digest, prepare_policy
for spec in ("openai:m", "anthropic:m", sys.argv[1]):
    check_spec(spec); prepare_policy(spec, lambda *_: None); policy_digest(spec)
heavy = {"openai", "anthropic", "torch", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "VLLM_API_KEY", "SIA_POLICY_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("openai:gpt-x", ("openai", "gpt-x", "https://api.openai.com/v1", "OPENAI_API_KEY")),
        ("openai:ft:gpt:org::1", ("openai", "ft:gpt:org::1", "https://api.openai.com/v1", "OPENAI_API_KEY")),
        ("openai:a/b@http://h:1/v1/", ("openai", "a/b", "http://h:1/v1", "OPENAI_API_KEY")),
        ("openai:m@https://h/v1#MY_KEY", ("openai", "m", "https://h/v1", "MY_KEY")),
        ("anthropic:m#MY_KEY", ("anthropic", "m", "https://api.anthropic.com", "MY_KEY")),
        ("vllm:/models/m@http://h:8000/v1", ("vllm", "/models/m", "http://h:8000/v1", "VLLM_API_KEY")),
    ],
)
def test_spec_is_parsed_into_its_parts(text: str, parts: tuple[str, str, str, str]) -> None:
    spec = parse_spec(text)
    assert spec is not None
    assert (spec.kind, spec.model, spec.base_url, spec.variable) == parts


@pytest.mark.parametrize("text", ["scripted", "smollm2", "local:/x", "replay:f", "gpt"])
def test_specs_of_other_kinds_are_not_parsed(text: str) -> None:
    assert parse_spec(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "openai:",
        "openai: m",
        "openai:@http://h",
        "openai:m@h:8000/v1",
        "openai:m@http://",
        "openai:m@http://user:secret@h/v1",
        "openai:m@http://h/v1?key=secret",
        "openai:m#not-a-name",
    ],
)
def test_invalid_specs_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_spec(text)
    assert "openai:MODEL" in refused.value.hint


def test_missing_key_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, variable in [
        ("openai:m", "OPENAI_API_KEY"),
        ("anthropic:m", "ANTHROPIC_API_KEY"),
        ("openai:m@https://api.example.org/v1#MINE", "MINE"),
    ]:
        with pytest.raises(PolicyError, match=variable) as refused:
            check_spec(spec)
        assert f"export {variable}" in refused.value.hint
        monkeypatch.setenv(variable, KEY)
        check_spec(spec)


@pytest.mark.parametrize(
    "spec", ["openai:m@http://127.0.0.1:1/v1", "anthropic:m@http://localhost:1", "vllm:m@http://h/v1"]
)
def test_servers_may_need_no_key(spec: str) -> None:
    check_spec(spec)
    parsed = parse_spec(spec)
    assert parsed is not None and parsed.key() == NO_KEY


def test_key_is_in_the_requests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    spec = parse_spec("openai:m")
    policy = load_policy("openai:m")
    assert spec is not None and spec.key() == KEY
    for shown in (repr(spec), repr(pickle.dumps(spec)), repr(policy), policy.digest, repr(vars(policy)["_server"])):
        assert KEY not in shown
    with pytest.raises(TypeError):
        pickle.dumps(policy)


def test_digest_covers_model_and_address_but_not_the_key() -> None:
    digests = {policy_digest(spec) for spec in ("openai:m", "openai:n", "anthropic:m", "openai:m@http://h/v1")}
    assert len(digests) == 4
    assert policy_digest("openai:m@http://h/v1/#MINE") == policy_digest("openai:m@http://h/v1")


def test_concurrency_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "openai:m@http://127.0.0.1:1/v1"
    assert load_policy(spec).concurrency == 16
    monkeypatch.setenv("SIA_POLICY_CONCURRENCY", "3")
    assert load_policy(spec).concurrency == 3
    monkeypatch.setenv("SIA_POLICY_CONCURRENCY", "many")
    with pytest.raises(UsageError, match="'many'"):
        check_spec(spec)


def test_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PolicyError, match="openai is not installed") as refused:
        check_spec("openai:m")
    assert "sia[llm]" in refused.value.hint


def test_own_server_needs_vllm_on_this_machine_only(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"vllm:{tiny_model}"
    monkeypatch.setenv("SIA_VLLM", "no-such-program --flag")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(PolicyError, match="no program 'no-such-program'") as refused:
        check_spec(spec)
    assert "pip install 'sia[gpu]'" in refused.value.hint and "vllm:DIR@http" in refused.value.hint
    monkeypatch.setenv("SIA_VLLM", sys.executable)
    check_spec(spec)
    monkeypatch.setenv("SIA_VLLM", "no-such-program")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_spec(spec)
    with pytest.raises(UsageError, match="its own key"):
        check_spec(f"{spec}#MY_KEY")


def test_trainable_policy_has_a_base_model(tiny_model: Path) -> None:
    for spec in ("openai:m", "anthropic:m", "replay:f"):
        with pytest.raises(UsageError, match="no base model"):
            base_directory(spec)
    assert base_directory(f"vllm:{tiny_model}@http://h/v1") == tiny_model


def test_spec_check_loads_nothing_heavy(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    command = [sys.executable, "-c", LIGHT, f"vllm:{tiny_model}@http://h/v1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_spec_with_a_directory_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no config\.json"):
        prepare_policy(f"vllm:{tmp_path}", lambda *_: None)

"""Policies are found by name, and a check of a name is cheap."""

import subprocess
import sys
from pathlib import Path

import pytest

from sia_core.domain.errors import PolicyError, UsageError
from sia_core.policy.registry import base_directory, check_spec, load_policy, policy_digest, prepare_policy

LIGHT = """
import sys
from sia_core.policy.registry import check_spec, load_policy, policy_digest, prepare_policy
check_spec("smollm2")
prepare_policy(sys.argv[1], lambda *_: None)
print(policy_digest(sys.argv[1]), load_policy("scripted").digest)
heavy = {"torch", "transformers", "peft", "ray"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("spec", ["scripted", "smollm2", "local:/some/where"])
def test_known_specs_are_accepted(spec: str) -> None:
    check_spec(spec)


@pytest.mark.parametrize(("spec", "words"), [("gpt", "unknown policy 'gpt'"), ("vlm:x", "unknown policy 'vlm:x'")])
def test_unknown_specs_are_refused(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        check_spec(spec)
    assert "scripted, smollm2, local:DIR" in refused.value.hint


def test_digests_need_no_torch_and_do_not_depend_on_the_place(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    done = subprocess.run([sys.executable, "-c", LIGHT, f"local:{moved}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == policy_digest(f"local:{tiny_model}")


def test_changed_weight_is_another_policy(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    before = policy_digest(f"local:{copy}")
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert policy_digest(f"local:{copy}") != before


def test_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no config\.json"):
        prepare_policy(f"local:{tmp_path}", lambda *_: None)
    with pytest.raises(UsageError):
        base_directory("scripted")


def test_local_policy_is_loaded_by_its_spec(tiny_model: Path) -> None:
    policy = load_policy(f"local:{tiny_model}", threads=1)
    assert policy.digest == policy_digest(f"local:{tiny_model}")
    assert policy.trainable

"""Checkpoints of another update are refused by name, and adapters are served only under their own name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.local import LocalPolicy
from sia_core.weights.manifest import identify
from sia_core.weights.trainer import Trainer
from tests.weights.test_weights import SPEC, play


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    Trainer(tiny_model, SPEC, None, threads=1).save(folder, [])
    return folder


@pytest.mark.parametrize("name", ["spec_id", "base", "tokenizer", "template"])
def test_mismatch_is_refused_by_name(name: str, checkpoint: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "c")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert name in manifest
    (folder / "manifest.json").write_text(json.dumps({**manifest, name: "0" * 64}))
    with pytest.raises(PolicyError, match=f"checkpoint has {name}"):
        Trainer(tiny_model, SPEC, None, threads=1).load(folder)


def test_tokenizer_and_template_have_digests_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    before = identify(base)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    templated = identify(base)
    assert [name for name in before if before[name] != templated[name]] == ["base", "template"]
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 7}))
    tokenized = identify(base)
    assert [name for name in before if templated[name] != tokenized[name]] == ["base", "tokenizer"]


def test_missing_checkpoint_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no checkpoint"):
        Trainer(tiny_model, SPEC, None, threads=1).load(tmp_path / "none")


def test_failed_save_leaves_the_old_checkpoint(
    checkpoint: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "c")
    before = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    trainer = Trainer(tiny_model, replace(SPEC), None, threads=1)
    monkeypatch.setattr("sia_core.weights.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        trainer.save(folder, [])
    assert {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_adapter_under_the_name_of_another_is_not_served(tiny_model: Path, tmp_path: Path) -> None:
    policy = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    first = trainer.save(tmp_path / "1", trainer.train(play(policy, None, 0)))
    second = trainer.save(tmp_path / "2", trainer.train(play(policy, first, 1)))
    # A name is the digest of its bytes: the bytes of one adapter under the name of another are refused.
    with pytest.raises(PolicyError, match="expected"):
        policy.probe(Adapter(second.digest, first.path))
    # And where the engine serves one and says another, the rollouts' logprobs give it away.
    stale = [replace(r, turns=tuple(replace(t, adapter=second.digest) for t in r.turns)) for r in play(policy, None, 2)]
    with pytest.raises(PolicyError, match="not sampled by this base and adapter"):
        Trainer(tiny_model, replace(SPEC, parent_adapter=second.digest, max_gap=0.005), second.path, threads=1).train(
            stale
        )
    assert policy.probe(first) != policy.probe(second) != policy.probe(None)


def test_folder_with_replaced_bytes_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    policy = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    first = trainer.save(tmp_path / "live", trainer.train(play(policy, None, 0)))
    before = policy.probe(first)
    second = trainer.save(tmp_path / "live", trainer.train(play(policy, first, 1)))
    assert second.path == first.path
    assert policy.probe(second) != before
    fresh = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    with pytest.raises(PolicyError, match="expected"):
        fresh.probe(first)

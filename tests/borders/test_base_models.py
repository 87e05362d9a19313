"""Directories of base models: the digest covers whatever is loaded, and no code that came with a model is run."""

import json
import os
import shutil
from pathlib import Path

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.policy.base import base_digest
from sia_core.policy.local.loading import load_base, load_tokenizer

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').write_text('')\nclass Own: pass\n"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_json(file: Path, **changed: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def refusal(model: Path) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        base_digest(model)
    assert caught.value.where == str(model) and caught.value.hint
    return caught.value


def test_digest_file_that_came_with_a_model_is_not_believed(model: Path) -> None:
    right = base_digest(model)
    weights = model / "model.safetensors"
    stat = weights.stat()
    claim = {weights.name: [stat.st_size, stat.st_mtime_ns, "0" * 64]}
    (model / ".sia-digest.json").write_text(json.dumps(claim))
    assert base_digest(model) == right


def test_weights_changed_under_the_same_size_and_time_have_another_digest(model: Path) -> None:
    before, weights = base_digest(model), model / "model.safetensors"
    stat, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.stat().st_size == stat.st_size
    assert base_digest(model) != before


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "vocab.tiktoken", "chat_template.jinja", "additional_chat_templates/a.jinja"],
)
def test_file_that_loading_reads_is_part_of_the_digest(model: Path, name: str) -> None:
    before = base_digest(model)
    (model / name).parent.mkdir(exist_ok=True)
    with (model / name).open("a") as file:
        file.write(" ")
    assert base_digest(model) != before


@pytest.mark.control
def test_file_that_loading_does_not_read_is_no_part_of_the_digest(model: Path) -> None:
    before = base_digest(model)
    (model / "README.md").write_text("# A model")
    assert base_digest(model) == before


def test_pickled_weights_are_no_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "no weights in safetensors files" in refusal(model).what


def test_pickled_weights_beside_others_are_not_loaded(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"no pickle")
    assert load_base(model) is not None


def test_directory_of_an_adapter_is_no_base_model(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    assert "makes this an adapter" in refusal(model).what


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/other/model.safetensors", "part/model.safetensors"])
def test_weights_outside_the_directory_are_refused(model: Path, name: str) -> None:
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": name}})
    )
    assert repr(name) in refusal(model).what


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "{"])
def test_senseless_index_is_refused(model: Path, text: str) -> None:
    (model / "model.safetensors.index.json").write_text(text)
    assert "cannot be read" in refusal(model).what


def test_code_that_came_with_a_model_is_not_run(model: Path) -> None:
    (model / "own.py").write_text(CODE)
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    change_json(model / "config.json", auto_map=own, model_type="own")
    change_json(model / "tokenizer_config.json", auto_map=own, tokenizer_class="Own")
    for load in (load_base, load_tokenizer):
        with pytest.raises(PolicyError) as caught:
            load(model)
        assert caught.value.where == str(model) and "trust_remote_code" not in str(caught.value)
    assert not (model / "ran").exists()


def test_torn_weights_are_an_error_that_names_the_model(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(PolicyError, match="cannot be loaded") as caught:
        load_base(model)
    assert caught.value.where == str(model)

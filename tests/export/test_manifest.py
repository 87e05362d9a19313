"""Test that an export refuses everything that differs from what was scored."""

import json
from pathlib import Path

import pytest

from sia_core.domain.errors import HarnessError, PolicyError, RecordError, SiaError
from sia_core.export.base import check_policy
from sia_core.export.manifest import CARD, Export
from sia_core.host.progress import Silent
from tests.export.makers import make_export


def test_written_export_is_read_again(tmp_path: Path) -> None:
    export = Export.load(make_export(tmp_path / "bare"))
    assert export.adapter is None and export.harness.digest == export.manifest.harness
    export = Export.load(make_export(tmp_path / "lora", base="ab"))
    assert export.adapter is not None and export.adapter.path == tmp_path / "lora" / "adapter"


def test_card_may_be_edited(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("first")
    folder = make_export(tmp_path)
    (folder / CARD).write_text("second")
    Export.load(folder)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("sia.json", None, RecordError, ("no sia.json", "sia export")),
        ("sia.json", "{", RecordError, ("cannot be read",)),
        ("sia.json", '{"format": "sia-export/9"}', RecordError, ("sia-export/9", "sia-export/1")),
        ("sia.json", '{"format": "sia-export/1"}', RecordError, ("harness",)),
        ("harness/agent.py", "async def solve(problem, ctx): ...", HarnessError, ("digest", "expected")),
        ("harness/agent.py", None, HarnessError, ("agent.py", "not there")),
        ("harness/more.py", "", HarnessError, ("digest",)),
        ("adapter/adapter_model.safetensors", "torn", PolicyError, ("digest", "expected")),
        ("adapter/adapter_model.safetensors", None, PolicyError, ("incomplete", "adapter_model.safetensors")),
        ("adapter", None, PolicyError, ("adapter is missing",)),
    ],
)
def test_changed_files_are_refused(
    tmp_path: Path, name: str, content: str | None, error: type[SiaError], words: tuple[str, ...]
) -> None:
    folder = make_export(tmp_path / "export", base="ab")
    if content is not None:
        (folder / name).write_text(content)
    elif (folder / name).is_dir():
        (folder / name).rename(tmp_path / "gone")
    else:
        (folder / name).unlink()
    with pytest.raises(error) as caught:
        Export.load(folder)
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.hint or error is HarnessError


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("policy", "threads"), 10**9, "policy.threads: 1000000000 is not at most 1024"),
        (("policy", "batch"), 0, "policy.batch: 0 is not at least 1"),
        (("policy", "threads"), 2.5, "policy.threads: 2.5 is not a whole number"),
        (("test", "problems"), 10**12, "test.problems"),
        (("test", "rollouts"), -1, "test.rollouts"),
        (("test", "confidence"), 5.0, "test.confidence: 5.0 is not below 1"),
        (("test", "seed"), 10**40, "more than 64 bits"),
        (("test", "final", "mean"), float("nan"), "test.final.mean: nan is not a finite number"),
        (("test", "scores", "p"), [float("inf")], "test.scores.p.0: inf is not a finite number"),
        (("task", "limits", "seconds"), 1e300, "task.limits.seconds: 1e+300 is not at most"),
        (("task", "limits", "memory_mb"), 2**40, "task.limits.memory_mb"),
        (("task", "sampling", "max_tokens"), 0, "task.sampling.max_tokens"),
        (("task", "name"), "a\x1b[2J", "task.name"),
        (("task", "title"), "x" * 5000, "task.title"),
        (("run",), "a\nb", "run: 'a\\nb' does not match"),
        (("harness",), "../../key", "digest"),
        (("files", "../../etc/passwd"), "0" * 64, "outside the export"),
        (("files", "a\x07"), "0" * 64, "files"),
    ],
    ids=repr,
)
def test_absurd_numbers_and_names_are_refused_by_field(
    tmp_path: Path, place: tuple[str, ...], value: object, words: str
) -> None:
    folder = make_export(tmp_path / "export")
    data = json.loads((folder / "sia.json").read_text())
    inside = data
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    (folder / "sia.json").write_text(json.dumps(data))
    with pytest.raises((RecordError, HarnessError)) as caught:
        Export.load(folder)
    assert words in str(caught.value) and "Input should" not in str(caught.value)


def test_decisions_that_were_changed_are_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("decisions.json").write_text("{}")
    folder = make_export(tmp_path)
    Export.load(folder)
    (folder / "decisions.json").write_text("[]")
    with pytest.raises(RecordError, match=r"decisions\.json is missing or was changed"):
        Export.load(folder)


def test_file_outside_the_export_is_ignored(tmp_path: Path) -> None:
    folder = make_export(tmp_path / "export")
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((folder / "sia.json").read_text())
    manifest["files"]["../secret"] = "0" * 64
    (folder / "sia.json").write_text(json.dumps(manifest))
    with pytest.raises(RecordError, match="outside"):
        Export.load(folder)


def test_another_base_model_is_refused_by_name(tmp_path: Path) -> None:
    export = Export.load(make_export(tmp_path / "export", base="ab" * 32, policy="smollm2", digest="cd" * 32))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(PolicyError) as caught:
        check_policy(export, f"local:{tmp_path / 'model'}", Silent())
    assert "another base model" in str(caught.value) and "abababababab" in str(caught.value)


def test_missing_base_model_is_asked_for(tmp_path: Path) -> None:
    export = Export.load(make_export(tmp_path, base="ab" * 32, policy="local:/nowhere", digest="ab" * 32))
    with pytest.raises(PolicyError) as caught:
        check_policy(export, "", Silent())
    assert "--policy local:DIR" in caught.value.hint


@pytest.mark.parametrize("spec", ["openai:m@http://127.0.0.1:9/v1#SOME_SECRET", "vllm:/model@http://127.0.0.1:9/v1"])
def test_key_is_not_sent_to_a_server_named_by_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.setenv("SOME_SECRET", "sk-secret")
    export = Export.load(make_export(tmp_path, policy=spec, digest="ab" * 32))
    with pytest.raises(PolicyError) as caught:
        check_policy(export, "", Silent())
    assert "name it: --policy" in caught.value.hint and "sk-secret" not in str(caught.value)

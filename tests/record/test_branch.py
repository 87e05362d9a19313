"""A run that begins from a candidate of another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_files
from sia_core.domain.lineage import Node
from sia_core.domain.task import Task
from sia_core.host.progress import Silent
from sia_core.loop import create_run
from sia_core.loop.configure import build_config
from sia_core.loop.fingerprint import check_unchanged
from sia_core.policy.registry import policy_digest
from sia_core.record.branch import Branch
from sia_core.record.phases import ImproveDone
from sia_core.record.store import RunRecord
from tests.factories import TOY

BETTER = Harness.from_files({"harness.toml": b'name = "better"\n', "agent.py": b"x = 1\n"})
WEIGHTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


def toy(seed: int = 0) -> RunConfig:
    plan: dict[str, int | None] = {"generations": 3}
    settings: dict[str, Any] = {"policy": "scripted", "agent": "rules", "meta": False, "seed": seed}
    return build_config(TOY, **plan, sandbox="none", **settings)


def begin(config: RunConfig) -> RunRecord:
    task = Task.load(config.task)
    _, harness = create_run.prepare(config, Silent())
    return create_run.open_run(config, task, harness, None)


@pytest.fixture
def source(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """A run of seed 4: generation 1 promoted a harness with an adapter, 2 made no candidate, 3 was not promoted."""
    monkeypatch.setenv("SIA_HOME", str(store_home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = begin(toy(4))
    run.put_harness(BETTER)
    adapter = digest_files(WEIGHTS)
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in WEIGHTS.items():
        (folder / name).write_bytes(data)
    run.put_adapter(Adapter(adapter, folder))
    best = Node(1, 0, Candidate(BETTER.digest, adapter), "both", promoted=True, generation=1)
    nothing = Node(2, 1, best.candidate, "harness", promoted=False, generation=2, failure="smoke: it fell over")
    later = Node(3, 1, Candidate(BETTER.digest), "harness", promoted=False, generation=3)
    for node in (best, nothing, later):
        run.generation(node.generation).complete(ImproveDone(nodes=(node,)))
    return run


def test_branch_begins_with_a_copy_of_the_pair(source: RunRecord) -> None:
    config = create_run.branch(toy(), source.name, None)
    assert (config.branch_from, config.seed) == (f"{source.name}:1", 5)
    run = begin(config)
    (seed,) = run.nodes()
    assert seed.candidate == Candidate(BETTER.digest, digest_files(WEIGHTS))
    assert run.harness(BETTER.digest) == BETTER
    copied = run.adapter(seed.candidate.adapter)
    assert copied is not None
    assert (copied.path / "adapter_model.safetensors").read_bytes() == b"weights"
    assert run.tags["sia.branch_from"] == f"{source.name}:1"
    check_unchanged(run, Task.load(TOY))


@pytest.mark.parametrize(("generation", "candidate"), [(0, None), (3, BETTER.digest)])
def test_any_generation_may_be_branched_from(source: RunRecord, generation: int, candidate: str | None) -> None:
    found = Branch.find(source.record, f"{source.name}:{generation}")
    assert found.node.candidate.harness == (candidate or source.nodes()[0].candidate.harness)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{name}:x", UsageError, "'x' is not a generation"),
        ("{name}:9", RecordError, "has no generation 9; its last is 3"),
        ("{name}:2", RecordError, "generation 2 made no new candidate .smoke: it fell over"),
        ("nowhere:1", RecordError, "unknown run 'nowhere'"),
    ],
)
def test_invalid_branch_sources_are_refused(source: RunRecord, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Branch.find(source.record, text.format(name=source.name))


def test_branch_from_another_task_policy_or_seed_is_refused(source: RunRecord) -> None:
    found = Branch.find(source.record, source.name)
    digest = policy_digest("scripted")
    found.check("toy", digest, 5)
    with pytest.raises(UsageError, match="is of task toy, not other"):
        found.check("other", digest, 5)
    with pytest.raises(UsageError, match="has an adapter of policy scripted"):
        found.check("toy", "another", 5)
    with pytest.raises(UsageError, match="the gate would draw the problems") as caught:
        found.check("toy", digest, 4)
    assert "--seed 5" in caught.value.hint
    bare = replace(found, node=source.nodes()[0])
    bare.check("toy", "another", 5)  # A harness goes with any policy.

"""The record on a real MLflow store."""

import json
from pathlib import Path

import pytest
from mlflow.entities import DatasetInput, Run

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_files
from sia_core.domain.lineage import Cost, Node
from sia_core.domain.plan import Shape
from sia_core.record.generation import GenerationRecord
from sia_core.record.journal import Journal
from sia_core.record.lease import hold
from sia_core.record.phases import ExecuteDone, ImproveDone, StartDone
from sia_core.record.rewind import forget
from sia_core.record.store import Record, RunRecord, open_record
from sia_core.record.stored import Stored
from tests.factories import make_rollout

EXECUTED = ExecuteDone(node=0, why="the champion", cost=Cost(), shape=Shape(1, 1))
CONFIG = RunConfig(
    task="toy",
    generations=2,
    problems=2,
    rollouts=2,
    gate_problems=2,
    gate_rollouts=2,
    test_problems=2,
    test_rollouts=2,
)
HARNESS = Harness.from_files({"harness.toml": b'name = "h"\n', "agent.py": b"x = 1\n", "prompts/a.txt": b"hello"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return open_record(tmp_path_factory.mktemp("home"), None)


@pytest.fixture
def run(store: Record) -> RunRecord:
    return store.create(CONFIG, {"sia.task": "toy", "sia.task_digest": "d"})


def artifact(stored: RunRecord | GenerationRecord, name: str) -> Path:
    """Where MLflow keeps an artifact of a local store."""
    return Path(stored.record.client.get_run(stored.run_id).info.artifact_uri.removeprefix("file://")) / name


def inputs_of(run: RunRecord) -> list[DatasetInput]:
    """Datasets that MLflow shows of a run."""
    inputs = run.record.client.get_run(run.run_id).inputs
    return list(inputs.dataset_inputs) if inputs else []


def test_artifacts_lie_in_the_home_also_for_a_child_process(store: Record) -> None:
    # MLflow has put the store's address into the environment, where a worker's child finds it.
    again = open_record(store.cache, store.tracking_uri)
    experiment = again.client.get_experiment(again.experiment("inherited"))
    assert experiment.artifact_location == f"{(store.cache / 'artifacts').as_uri()}/inherited"


def test_stored_config_is_read_back(store: Record, run: RunRecord) -> None:
    assert store.open(run.name).config == CONFIG
    assert store.open(run.run_id[:12]).name == run.name


def test_unknown_run_names_what_there_is(store: Record, run: RunRecord) -> None:
    with pytest.raises(RecordError, match="unknown run 'nope'") as caught:
        store.open("nope")
    assert run.name in caught.value.hint


def test_stored_harness_is_read_back_by_digest(run: RunRecord) -> None:
    run.put_harness(HARNESS)
    assert run.harness(HARNESS.digest) == HARNESS


def test_changed_harness_is_refused(run: RunRecord) -> None:
    run.put_harness(HARNESS)
    assert run.harness(HARNESS.digest) == HARNESS
    artifact(run, f"harnesses/{HARNESS.digest}/agent.py").write_bytes(b"x = 2\n")
    assert run.harness(HARNESS.digest) == HARNESS, "read once is enough for one process"
    run.record.harnesses.clear()  # As another process finds it.
    with pytest.raises(RecordError, match="was changed"):
        run.harness(HARNESS.digest)


def test_stored_adapter_is_read_back_and_a_torn_one_refused(run: RunRecord, tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    digest = digest_files(files)
    run.put_adapter(Adapter(digest, tmp_path))
    loaded = run.adapter(digest)
    assert loaded is not None
    assert (loaded.path / "adapter_model.safetensors").read_bytes() == b"weights"
    run.put_adapter(Adapter("0" * 64, tmp_path))
    with pytest.raises(RecordError, match="changed or is incomplete"):
        run.adapter("0" * 64)


def test_phase_is_complete_or_absent(run: RunRecord) -> None:
    generation = run.generation(1)
    generation.put_json("phases/execute.json", {"torn": True})
    assert generation.phase(ExecuteDone) is None
    generation.complete(EXECUTED)
    assert run.generation(1).phase(ExecuteDone) == EXECUTED


def test_record_of_another_format_is_refused_with_its_name(run: RunRecord) -> None:
    run.set_tags({"sia.format": "sia-record/1", "sia.version": "0.0.9"})
    with pytest.raises(RecordError, match="is a record of format sia-record/1; this SIA reads sia-record/3") as caught:
        run.record.open(run.name)
    assert "0.0.9" in caught.value.hint


def test_phase_of_another_version_is_refused(run: RunRecord) -> None:
    generation = run.generation(1)
    digest = generation.put_json("phases/execute.json", {"node": 0})
    generation.set_tags({"sia.phase.execute": digest})
    with pytest.raises(RecordError, match=r"phases/execute\.json was written by another version of SIA: why"):
        generation.phase(ExecuteDone)


def test_changed_phase_is_refused(run: RunRecord) -> None:
    generation = run.generation(1)
    generation.complete(EXECUTED)
    artifact(generation, "phases/execute.json").write_text('{"x":2}')
    run.record.phases.clear()
    with pytest.raises(RecordError, match="was changed"):
        generation.phase(ExecuteDone)


def test_lineage_of_a_long_run_is_read_once(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = Node(0, None, Candidate("h"), "seed", True)
    nodes = [seed, *(Node(at, 0, Candidate(f"h{at}"), "harness", False, generation=at) for at in range(1, 71))]
    run.complete(StartDone(node=seed))
    for made in nodes[1:]:
        run.generation(made.generation).complete(ImproveDone(nodes=(made,)))
    run.record.phases.clear()
    assert run.nodes() == nodes
    reads: list[str] = []
    monkeypatch.setattr(Stored, "get_bytes", lambda _, name: reads.append(name))
    assert run.nodes() == nodes
    assert reads == []


def test_holder_of_a_run_asks_for_its_generations_once(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    run.complete(StartDone(node=Node(0, None, Candidate("h"), "seed", True)))
    searches: list[str] = []
    children = run.record.children

    def search(run_id: str) -> list[Run]:
        searches.append(run_id)
        return children(run_id)

    monkeypatch.setattr(run.record, "children", search)
    with hold(run):
        for index in (1, 2):
            assert not run.generation_begun(index)
            made = Node(index, 0, Candidate(f"h{index}"), "harness", False, generation=index)
            run.generation(index).complete(EXECUTED)
            run.generation(index).complete(ImproveDone(nodes=(made,)))
            assert run.nodes()[-1] == run.nodes()[-1] == made
        assert len(searches) == 5  # After each beginning and end of a generation, and at first.
        forget(run, 2)
        assert [node.index for node in run.nodes()] == [0, 1]
    searches.clear()
    assert run.nodes() == run.nodes()
    assert len(searches) == 2


def test_stored_rollouts_are_read_back_whole(run: RunRecord) -> None:
    rollouts = [make_rollout("a", 1), make_rollout("b", 2, failure="timeout"), make_rollout("c", 3, trainable=False)]
    generation = run.generation(1)
    generation.put_rollouts("train", rollouts)
    assert generation.rollouts("train") == sorted(rollouts, key=lambda rollout: rollout.unit.key)


def test_generation_is_a_single_mlflow_run(run: RunRecord) -> None:
    assert run.generation(1).run_id == run.generation(1).run_id
    run.generation(2)
    assert [generation.index for generation in run.generations()] == [1, 2]


def test_logging_twice_is_logging_once(run: RunRecord) -> None:
    for _ in range(2):
        run.log_metrics({"score": 0.5}, step=3)
    history = run.record.client.get_metric_history(run.run_id, "score")
    assert [(point.value, point.step) for point in history] == [(0.5, 3)]


def test_splits_are_mlflow_datasets(store: Record, run: RunRecord) -> None:
    splits = {"train": ["a", "b"], "test": ["c"]}
    for _ in range(2):
        run.put_datasets("toy", splits)
    other = store.create(CONFIG, {"sia.task": "toy", "sia.task_digest": "d"})
    other.put_datasets("toy", {"train": ["a", "z"]})

    assert [one.dataset.name for one in inputs_of(run)].count("toy/train") == 1 and len(inputs_of(run)) == 2
    found = {one.dataset.name: one for one in inputs_of(run)}
    assert found["toy/train"].tags[0].value == "train"
    assert json.loads(found["toy/train"].dataset.profile or "") == {"problems": 2}
    assert inputs_of(other)[0].dataset.digest != found["toy/train"].dataset.digest


def test_lineage_is_read_from_mlflow(run: RunRecord) -> None:
    assert run.nodes() == []
    seed = Node(0, None, Candidate("h"), "seed", True)
    children = [Node(at, 0, Candidate(f"h{at}"), "harness", False, failure="no", generation=1) for at in (1, 2)]
    run.complete(StartDone(node=seed))
    run.generation(1).complete(ImproveDone(nodes=tuple(children)))
    run.generation(2)
    assert run.nodes() == [seed, *children]


def test_siblings_keep_their_artifacts_apart(run: RunRecord) -> None:
    generation = run.generation(1)
    generation.complete(EXECUTED)
    generation.put_rollouts("train", [make_rollout()])
    second = generation.sibling(1)
    generation.put_json("ladder.json", 1)
    second.put_json("ladder.json", 2)
    assert (generation.get_bytes("ladder.json"), second.get_bytes("ladder.json")) == (b"1", b"2")
    # What both came from is one.
    assert second.phase(ExecuteDone) == EXECUTED
    assert second.rollouts("train") == generation.rollouts("train")
    generation.log_metrics({"gate.gain": 0.1})
    second.log_metrics({"gate.gain": 0.2})
    metrics = run.record.client.get_run(generation.run_id).data.metrics
    assert metrics == {"gate.gain": 0.1, "sibling_1/gate.gain": 0.2}


def test_unusable_store_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RecordError, match="MLflow cannot be used"):
        open_record(tmp_path, None)


def test_journal_keeps_the_first_record_of_a_unit(tmp_path: Path) -> None:
    first, second = make_rollout(score=0.1), make_rollout(score=0.9)
    assert first.unit.key == second.unit.key
    with Journal(tmp_path / "j.db") as journal:
        journal.put(first)
        journal.put(second)
        assert len(journal) == 1
    with Journal(tmp_path / "j.db") as journal:
        assert journal.get([first.unit.key, "other"]) == {first.unit.key: first}

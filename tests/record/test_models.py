"""Adapters as LoggedModels and the registry's champion, on a real MLflow store."""

from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModel
from mlflow.tracking import MlflowClient

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_files
from sia_core.record import models
from sia_core.record.store import Record, RunRecord, open_record
from tests.record.test_record import CONFIG, HARNESS

OTHER = Harness.from_files({"harness.toml": b'name = "h"\n', "agent.py": b"x = 3\n"})
SPEC = {"algorithm": "rloo", "learning_rate": 2e-4, "batch": None, "reason": "because " * 200}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return open_record(tmp_path_factory.mktemp("home"), None)


def start(store: Record, task: str, config: RunConfig = CONFIG) -> RunRecord:
    run = store.create(config, {"sia.task": task, "sia.task_digest": "d"})
    for harness in (HARNESS, OTHER):
        run.put_harness(harness)
    return run


def make_adapter(folder: Path, name: str) -> Adapter:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": name.encode() * 1000}
    path = folder / name
    path.mkdir()
    for file, data in files.items():
        (path / file).write_bytes(data)
    return Adapter(digest_files(files), path)


def logged(run: RunRecord) -> list[LoggedModel]:
    found = run.record.client.search_logged_models([run.experiment_id], f"tags.`sia.run` = '{run.name}'")
    return list(found)


def champion(client: MlflowClient, name: str, alias: str = "champion") -> str:
    """Digest under an alias."""
    return str(client.get_model_version_by_alias(name, alias).tags["sia.digest"])


def test_adapter_is_a_logged_model_with_its_update_and_its_steps(store: Record, tmp_path: Path) -> None:
    run = start(store, "logged")
    generation = run.generation(1)
    adapter = make_adapter(tmp_path, "a")
    for _ in range(2):  # As a run does that was killed and resumed.
        model_id = run.put_adapter(adapter, SPEC, generation)
        for step in range(2):
            generation.log_metrics({"update.reward": 0.5 + step, "update.kl": 0.01}, step, model_id)
    (model,) = logged(run)
    assert (model.model_id, model.source_run_id, str(model.status)) == (model_id, generation.run_id, "READY")
    assert model.params["algorithm"] == "rloo"
    assert "batch" not in model.params
    points = sorted((metric.key, metric.step, metric.value) for metric in model.metrics or ())
    assert points == [
        ("update.kl", 0, 0.01),
        ("update.kl", 1, 0.01),
        ("update.reward", 0, 0.5),
        ("update.reward", 1, 1.5),
    ]
    history = store.client.get_metric_history(generation.run_id, "update.reward")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 1.5)]


def test_interrupted_upload_of_an_adapter_is_absent_until_put_again(store: Record, tmp_path: Path) -> None:
    run = start(store, "torn")
    adapter = make_adapter(tmp_path, "a")
    store.client.create_logged_model(
        run.experiment_id, tags={"sia.adapter": adapter.digest, "sia.run": run.name}, params={}
    )
    with pytest.raises(RecordError, match="is missing"):
        run.adapter(adapter.digest)
    run.put_adapter(adapter)
    found = run.adapter(adapter.digest)
    assert found is not None
    assert (found.path / "adapter_model.safetensors").read_bytes() == b"a" * 1000
    assert len(logged(run)) == 1


def test_registry_of_the_store_replaces_the_registry_of_the_process(store: Record, tmp_path: Path) -> None:
    mlflow.set_registry_uri(
        f"sqlite:///{tmp_path / 'gone' / 'other.db'}"
    )  # As a notebook may; MLflow's own server does.
    try:
        again = open_record(store.cache, store.tracking_uri)
        start(again, "own").promote(Candidate(HARNESS.digest), 0)
    finally:
        mlflow.set_registry_uri("")
    assert champion(store.client, "own-harness") == HARNESS.digest


def test_champion_is_the_last_promotion_and_previous_the_promotion_before(store: Record, tmp_path: Path) -> None:
    run = start(store, "crowned")
    first, second = (make_adapter(tmp_path, name) for name in "ab")
    for adapter in (first, second):
        run.put_adapter(adapter)
    run.promote(Candidate(HARNESS.digest, first.digest), 1)
    assert champion(store.client, "crowned-adapter") == first.digest
    for _ in range(2):
        run.promote(Candidate(HARNESS.digest, second.digest), 2)
        assert champion(store.client, "crowned-adapter") == second.digest
        assert champion(store.client, "crowned-adapter", "previous") == first.digest
        assert champion(store.client, "crowned-harness") == HARNESS.digest
    assert len(store.client.search_model_versions("name = 'crowned-adapter'")) == 2
    assert len(store.client.search_model_versions("name = 'crowned-harness'")) == 1
    files = Path(mlflow.artifacts.download_artifacts("models:/crowned-adapter@champion"))
    assert (files / "adapter_model.safetensors").read_bytes() == b"b" * 1000
    harness = Path(mlflow.artifacts.download_artifacts("models:/crowned-harness@champion"))
    assert (harness / "agent.py").read_bytes() == HARNESS.files["agent.py"]


def test_interrupted_promotion_is_finished_by_the_next_try(
    store: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(store, "cut")
    first, second = (make_adapter(tmp_path, name) for name in "ab")
    for adapter in (first, second):
        run.put_adapter(adapter)
    run.promote(Candidate(HARNESS.digest, first.digest), 1)
    move = store.client.set_registered_model_alias

    def killed(name: str, alias: str, version: str) -> None:
        if alias == models.CHAMPION:
            raise KeyboardInterrupt
        move(name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            run.promote(Candidate(HARNESS.digest, second.digest), 2)
    run.promote(Candidate(HARNESS.digest, second.digest), 2)
    assert champion(store.client, "cut-adapter") == second.digest
    assert champion(store.client, "cut-adapter", "previous") == first.digest


def test_champion_without_an_adapter_removes_the_adapter_of_its_run_only(store: Record, tmp_path: Path) -> None:
    run = start(store, "bare")
    adapter = make_adapter(tmp_path, "a")
    run.put_adapter(adapter)
    run.promote(Candidate(HARNESS.digest, adapter.digest), 1)
    other = start(store, "bare")
    other.promote(Candidate(OTHER.digest), 1)
    assert champion(store.client, "bare-adapter") == adapter.digest
    assert champion(store.client, "bare-harness") == OTHER.digest
    run.promote(Candidate(OTHER.digest), 2)
    assert store.client.get_registered_model("bare-adapter").aliases.keys() == {"previous"}

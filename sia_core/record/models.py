"""Store adapters as MLflow LoggedModels, and keep the registry that says which candidate is the champion.

- An adapter is one LoggedModel of its run, found by the tag `sia.adapter`. A model is READY once all its files are
  stored; one that is not READY counts as absent and is completed when the adapter is logged again.
- A task has two registered models, TASK-adapter and TASK-harness. Each promotion of a run is one version. The alias
  `champion` marks the last version and `previous` the one before it, from any run.
- All calls use MLflow's client, because `log_model` would spend minutes inferring an environment.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from sia_core.domain.candidate import Adapter
from sia_core.record.tags import Tag

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class Entry:
    """Contents of a version of a registered model: digest, address, run and LoggedModel."""

    digest: str
    source: str
    """Address of the artifacts."""
    run_id: str
    model_id: str | None = None


def find_adapter(client: MlflowClient, experiment_id: str, run: str, digest: str) -> LoggedModel | None:
    """Find the LoggedModel of a run's adapter, preferring a READY one, then the oldest."""
    query = f"tags.`{Tag.ADAPTER}` = '{digest}' AND tags.`{Tag.RUN}` = '{run}'"
    found = client.search_logged_models([experiment_id], query)
    return min(found, key=lambda model: (not is_whole(model), model.creation_timestamp)) if found else None


def is_whole(model: LoggedModel | None) -> bool:
    """Return True if all files of a LoggedModel were stored."""
    return model is not None and model.status == LoggedModelStatus.READY


def log_adapter(
    client: MlflowClient, experiment_id: str, run: str, run_id: str, adapter: Adapter, params: Mapping[str, str]
) -> str:
    """Return the id of an adapter's LoggedModel, which is created or completed if necessary.

    Args:
        client: client of the store.
        experiment_id: experiment of the run.
        run: its name.
        run_id: MLflow run that the adapter comes from.
        adapter: the adapter with its files.
        params: parameters of the update that made it.
    """
    model = find_adapter(client, experiment_id, run, adapter.digest)
    if model is not None and is_whole(model):
        return str(model.model_id)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name=f"adapter-{adapter.digest[:12]}",
            source_run_id=run_id,
            tags={Tag.ADAPTER: adapter.digest, Tag.RUN: run},
            params=dict(params),
            model_type="lora",
        )
    client.log_model_artifacts(model.model_id, str(adapter.path))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def read_adapter(tracking_uri: str, model: LoggedModel) -> dict[str, bytes]:
    """Download an adapter's files, by name."""
    with tempfile.TemporaryDirectory(prefix="sia-") as folder:
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=model.artifact_location, dst_path=folder, tracking_uri=tracking_uri
        )
        return {file.name: file.read_bytes() for file in Path(found).iterdir()}


def crown(client: MlflowClient, name: str, run: str, index: int, entry: Entry) -> None:
    """Move `champion` to an entry's version and `previous` to the last champion; idempotent."""
    aliases = _aliases(client, name)
    version = _version(client, name, run, index, entry)
    if aliases.get(CHAMPION) == version:
        return
    if CHAMPION in aliases:
        client.set_registered_model_alias(name, PREVIOUS, aliases[CHAMPION])
    client.set_registered_model_alias(name, CHAMPION, version)


def dethrone(client: MlflowClient, name: str, run: str) -> None:
    """Remove `champion` from this run's version, whose successor has none; keep another run's."""
    champion = _aliases(client, name).get(CHAMPION)
    if champion is None or client.get_model_version(name, champion).tags.get(Tag.RUN) != run:
        return
    client.set_registered_model_alias(name, PREVIOUS, champion)
    client.delete_registered_model_alias(name, CHAMPION)


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Return a registered model's versions by alias; create the model if necessary."""
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
    try:
        client.create_registered_model(name)
    except MlflowException as error:  # Another run of the task was quicker.
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    return {}


def _version(client: MlflowClient, name: str, run: str, index: int, entry: Entry) -> str:
    query = f"name = '{name}' AND tags.`{Tag.DIGEST}` = '{entry.digest}' AND tags.`{Tag.RUN}` = '{run}'"
    for found in client.search_model_versions(query):
        return str(found.version)
    made = client.create_model_version(
        name,
        entry.source,
        run_id=entry.run_id,
        model_id=entry.model_id,
        tags={Tag.DIGEST: entry.digest, Tag.RUN: run, Tag.GENERATION: str(index)},
        await_creation_for=0,
    )
    return str(made.version)

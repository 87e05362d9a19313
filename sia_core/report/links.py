"""Build deep links into the UIs."""

import json
from collections.abc import Sequence
from urllib.parse import quote


def mlflow_run(base: str, experiment: str, run_id: str) -> str:
    """Return the URL of a run's page."""
    return f"{base}/#/experiments/{experiment}/runs/{run_id}"


def mlflow_artifact(base: str, experiment: str, run_id: str, name: str) -> str:
    """Return the URL of an artifact on a run's page."""
    return f"{mlflow_run(base, experiment, run_id)}/artifacts/{quote(name)}"


def mlflow_comparison(base: str, experiments: Sequence[str], run_ids: Sequence[str]) -> str:
    """Return the URL of MLflow's own comparison of runs: parameters, metrics, parallel coordinates."""
    words = {"runs": list(run_ids), "experiments": sorted(set(experiments))}
    query = "&".join(f"{name}={quote(json.dumps(values, separators=(',', ':')))}" for name, values in words.items())
    return f"{base}/#/compare-runs?{query}"


def prefect_flow_run(base: str, flow_run_id: str) -> str:
    """Return the URL of a flow run's page."""
    return f"{base}/runs/flow-run/{flow_run_id}"

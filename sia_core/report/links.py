"""Deep links into the UIs."""


def mlflow_run(base: str, experiment: str, run_id: str) -> str:
    """A run's page."""
    return f"{base}/#/experiments/{experiment}/runs/{run_id}"


def prefect_flow_run(base: str, flow_run_id: str) -> str:
    """A flow run's page."""
    return f"{base}/runs/flow-run/{flow_run_id}"

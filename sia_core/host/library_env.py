"""Keep libraries quiet: none sends usage data or prints over the progress bars, unless you set its variable."""

import os

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TOKENIZERS_PARALLELISM": "false",
}


def be_quiet() -> None:
    """Set the variables that are not set, before libraries are imported, because some read them then."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)

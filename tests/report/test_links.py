"""Links as the UIs' own routers take them."""

import json
from urllib.parse import parse_qs

from sia_core.report.links import mlflow_comparison


def test_comparison_names_its_runs_and_experiment() -> None:
    link = mlflow_comparison("http://127.0.0.1:5000", ["7"], ["a", "b"])
    page, _, query = link.partition("?")
    assert page == "http://127.0.0.1:5000/#/compare-runs"
    assert {name: json.loads(value[0]) for name, value in parse_qs(query).items()} == {
        "runs": ["a", "b"],
        "experiments": ["7"],
    }

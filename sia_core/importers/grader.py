"""Run an imported grader in its own process: `python grader.py JOB`. Nothing of SIA is imported.

JOB is a JSON file: `kind`, `memory_mb`, and the data of the kind. The score goes to the file `out`, as JSON: {"score"},
{"metrics"}, or {"refused": why} if the grader calls the submission malformed.
"""

import contextlib
import importlib.util
import json
import resource
import runpy
import sys
import types
from pathlib import Path
from typing import Any


class InvalidSubmissionError(Exception):
    """Error that MLE-bench's graders raise on a malformed submission."""


def main(job_file: str) -> None:
    """Do one job."""
    job = json.loads(Path(job_file).read_text())
    limit = int(job["memory_mb"]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kinds = {"mlebench": _mlebench, "evaluate": _evaluate}
    with contextlib.redirect_stdout(sys.stderr):
        found = kinds[job["kind"]](job)
    Path(job["out"]).write_text(json.dumps(found))


def _mlebench(job: dict[str, Any]) -> dict[str, Any]:
    """Call `grade(submission, answers)` of an MLE-bench competition, on data frames."""
    import pandas as pd

    _stand_in()
    spec = importlib.util.spec_from_file_location("grade", job["grader"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(job["grader"]).parent))
    spec.loader.exec_module(module)
    try:
        submission = pd.read_csv(job["submission"])
    except (ValueError, UnicodeDecodeError) as error:
        return {"refused": f"the submission is not a table: {error}"[:300]}
    try:
        return {"score": float(module.grade(submission, pd.read_csv(job["answers"])))}
    except InvalidSubmissionError as error:
        return {"refused": str(error)[:300]}


def _stand_in() -> None:
    """Provide the part of the package mlebench that graders import, so that it need not be installed."""
    helpers = types.ModuleType("mlebench.grade_helpers")
    helpers.InvalidSubmissionError = InvalidSubmissionError  # type: ignore[attr-defined]
    package = types.ModuleType("mlebench")
    package.__path__ = []
    package.grade_helpers = helpers  # type: ignore[attr-defined]
    sys.modules |= {"mlebench": package, "mlebench.grade_helpers": helpers}


def _evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """Run `evaluate.py --gen-dir DIR`, which writes DIR/results.json."""
    sys.argv = [job["grader"], "--gen-dir", job["folder"]]
    sys.path.insert(0, str(Path(job["grader"]).parent))
    try:
        runpy.run_path(job["grader"], run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            return {"refused": f"evaluate.py ended with {end.code!r}"[:300]}
    results = Path(job["folder"]) / "results.json"
    if not results.is_file():
        return {"refused": "evaluate.py left no results.json"}
    found = json.loads(results.read_text(encoding="utf-8-sig"))
    return {"metrics": {name: value for name, value in found.items() if isinstance(value, int | float)}}


if __name__ == "__main__":
    main(sys.argv[1])

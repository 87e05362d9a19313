"""Run imported tasks whose answer is a file of predictions: sia-agent's and MLE-bench's.

An answer is {"submission": text of the file} or {"code": a program that writes it}. The program runs in the sandbox
next to the public files. The grader runs outside the sandbox, on the rows of the problem alone.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Lab, Limits
from sia_core.domain.rollout import SPLITS, Split, Verdict
from sia_core.domain.task import Problem
from sia_core.host.directories import write_files
from sia_core.importers.grading import Graded, grade, pick, to_score
from sia_core.importers.table import Table, deal

MAX_SUBMISSION = 8 << 20
MAX_CODE = 200_000
_SAID = 300


class SubmissionTask:
    """Functions `load`, `verify` and `gold` of an imported task, from its import.json and the copied files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._table: dict[str, Any] = json.loads((folder / "import.json").read_text())

    def load(self, split: Split) -> Iterable[Problem]:
        """Make problems of parts of the test set's rows; `private` holds their ids."""
        count = self._table["problems"]
        parts = deal(self._answers.ids(self._id), len(SPLITS) * count, self._table["name"])
        start = SPLITS.index(split) * count
        return [self._problem(split, number, part) for number, part in enumerate(parts[start : start + count])]

    def gold(self, problem: Problem) -> Any:
        """Return the true answers as a submission, if a sample submission shows the form."""
        columns = self._table["columns"]
        if not columns or not set(columns) <= set(self._answers.columns):
            return None
        return {"submission": self._answers.only(self._id, problem.private).select(columns).write().decode()}

    def verify(self, problem: Problem, answer: Any, lab: Lab) -> Verdict:
        """Grade a submission, or the one that a program writes."""
        low, high = self._table["range"]
        data, fault = self._submitted(problem, answer, lab)
        fault = fault or self._malformed(problem, data or b"")
        if data is None or fault:
            return Verdict(low, valid=False, feedback=f"invalid; {fault}")
        graded = self._grade(problem, data)
        if graded.refused:
            return Verdict(low, valid=False, feedback=f"invalid; {graded.refused}")
        metrics = {name: value for name, value in graded.metrics.items() if math.isfinite(value)}
        value = pick(graded.metrics, self._table["metric"])
        if not math.isfinite(value):
            return Verdict(low, valid=False, metrics=metrics, feedback=f"invalid; the metric is {value}")
        score = to_score(value, low, high, lower_is_better=self._table["lower_is_better"])
        return Verdict(score, metrics=metrics, feedback=f"{self._table['metric']} {value:.6g}")

    def _problem(self, split: Split, number: int, ids: list[str]) -> Problem:
        name = f"{self._table['name']}-{split}-{number:02d}"
        files = {path: self._public(path, ids) for path in self._table["public"]}
        public = {
            "description": self._table["description"],
            "files": {path: len(data) for path, data in files.items()},
            "rows": len(ids),
            "submission": self._table["submission"],
            "columns": self._table["columns"],
        }
        return Problem(name, split, public, files, private=tuple(ids))

    def _public(self, name: str, ids: list[str]) -> bytes:
        """Read a public file; of one with test rows, only the problem's rows."""
        data = (self._folder / "original" / "public" / name).read_bytes()
        table = Table.read(name, data) if name in self._table["split"] else None
        return data if table is None else table.only(self._id, set(ids)).write()

    def _submitted(self, problem: Problem, answer: Any, lab: Lab) -> tuple[bytes | None, str]:
        """Return the bytes of the submission, or the reason why there are none."""
        keys = set(answer) if isinstance(answer, dict) else set()
        text = answer[keys.pop()] if keys in ({"submission"}, {"code"}) else None
        if not isinstance(text, str):
            return None, 'the answer has to be {"submission": text} or {"code": text}'
        data = text.encode(errors="replace")
        if "code" in answer:
            if len(data) > MAX_CODE:
                return None, f"the program has {len(data)} bytes, at most {MAX_CODE} are taken"
            return self._run(problem, data, lab)
        return (data, "") if 0 < len(data) <= MAX_SUBMISSION else (None, f"the submission has {len(data)} bytes")

    def _run(self, problem: Problem, code: bytes, lab: Lab) -> tuple[bytes | None, str]:
        name = self._table["submission"]
        limits = Limits(**self._table["limits"])
        result = lab.run({**problem.files, "_program.py": code}, limits, entry="_program.py", collect=[name])
        if result.status == "infrastructure":
            raise SandboxError(result.reason, where=self._table["name"])
        if result.status != "ok":
            said = (result.stderr.strip().splitlines() or [""])[-1][:_SAID]
            return None, f"the program ended with status {result.status}: {said or result.reason}"
        if name not in result.files or not 0 < len(result.files[name]) <= MAX_SUBMISSION:
            return None, f"the program left no {name}"
        return result.files[name], ""

    def _malformed(self, problem: Problem, data: bytes) -> str:
        """Return the error in a submission's form, or an empty text; without a sample, the grader judges the form.

        Graders differ in the errors that they accept: repeated rows, missing rows, missing columns. All of these are
        refused here, without starting a process.
        """
        columns = self._table["columns"]
        if not columns or self._id not in columns:
            return ""
        table = Table.read(self._table["submission"], data)
        if table is None:
            return f"the submission is no table in the form of {self._table['submission']}"
        missing = [name for name in columns if name not in table.columns]
        if missing:
            return f"the submission lacks the columns {missing}"
        ids, wanted = table.ids(self._id), set(problem.private)
        if len(ids) != len(wanted) or set(ids) != wanted:
            return f"the submission has {len(ids)} rows, which are not the {len(wanted)} rows of the problem, once each"
        return ""

    def _grade(self, problem: Problem, data: bytes) -> Graded:
        with tempfile.TemporaryDirectory(prefix="sia-grade-") as name:
            folder = Path(name)
            job = self._lay_out(folder, problem, data)
            return grade(job, folder, seconds=self._table["seconds"], memory_mb=self._table["memory_mb"])

    def _lay_out(self, folder: Path, problem: Problem, data: bytes) -> dict[str, Any]:
        """Write the grader and its files in the layout that it expects, with the problem's rows only."""
        answers = self._answers.only(self._id, set(problem.private)).write()
        grader = self._folder / "original" / self._table["grader"]
        if self._table["kind"] == "mlebench":
            (folder / "answers.csv").write_bytes(answers)
            (folder / "submission.csv").write_bytes(data)
            paths = {"submission": str(folder / "submission.csv"), "answers": str(folder / "answers.csv")}
            return {"kind": "mlebench", "grader": str(grader), **paths}
        layout = folder / "task"
        shutil.copytree(self._folder / "original" / "private", layout / "data" / "private")
        (layout / "data" / "private" / self._table["answers"]).write_bytes(answers)
        write_files(layout / "data" / "public", problem.files)
        place = layout / self._table["grader_place"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(grader, place)
        (folder / "gen").mkdir()
        (folder / "gen" / self._table["submission"]).write_bytes(data)
        return {"kind": "evaluate", "grader": str(place), "folder": str(folder / "gen")}

    @property
    def _id(self) -> str:
        return str(self._table["id"])

    @cached_property
    def _answers(self) -> Table:
        file = self._folder / "original" / "private" / self._table["answers"]
        table = Table.read(file.name, file.read_bytes())
        assert table is not None, file
        return table

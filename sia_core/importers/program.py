"""Run imported OpenEvolve tasks, whose answer is a program that the evaluator loads and runs.

OpenEvolve's evaluators import the program under test into their own process. A model wrote that program, so both run
together in a second sandbox that the harness never sees. The evaluator therefore has no secrets from the program, and a
program written to cheat can forge a result. Each result carries a random number, which is new for each verdict and
removed first. This stops a program that merely writes a result and ends, but not one that looks for the number.
"""

import json
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.domain.errors import SandboxError, TaskError
from sia_core.domain.lab import Lab, Limits
from sia_core.domain.rollout import SPLITS, Split, Verdict
from sia_core.domain.task import Problem
from sia_core.importers.grading import to_score

MAX_CODE = 200_000
RESULT = "_result.json"
_SAID = 300
MAIN = """
import dataclasses, importlib.util, json, os, sys, types


@dataclasses.dataclass
class EvaluationResult:
    metrics: dict
    artifacts: dict = dataclasses.field(default_factory=dict)


def _stand_in():
    package, module = types.ModuleType("openevolve"), types.ModuleType("openevolve.evaluation_result")
    package.__path__, module.EvaluationResult = [], EvaluationResult
    sys.modules["openevolve"], sys.modules["openevolve.evaluation_result"] = package, module


def _main():
    with open("_number") as file:
        number = file.read()
    os.remove("_number")
    _stand_in()
    sys.path.insert(0, os.getcwd())
    spec = importlib.util.spec_from_file_location("evaluator", os.path.abspath("EVALUATOR"))
    evaluator = importlib.util.module_from_spec(spec)
    sys.modules["evaluator"] = evaluator
    spec.loader.exec_module(evaluator)
    found = evaluator.evaluate(os.path.abspath("PROGRAM"))
    metrics = getattr(found, "metrics", found)
    if not isinstance(metrics, dict):
        kind = type(metrics).__name__
        raise TypeError(f"evaluate() gave {kind}, not a dictionary of metrics or an EvaluationResult")
    plain = {str(name): _plain(value) for name, value in metrics.items()}
    numbers = {name: float(value) for name, value in plain.items() if isinstance(value, (int, float))}
    others = {name: type(value).__name__ for name, value in plain.items() if name not in numbers}
    with open("RESULT", "w") as file:
        json.dump({"number": number, "metrics": numbers, "others": others}, file)


def _plain(value):
    # Scalars of numpy, torch and the like become the Python number that equals them.
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


if __name__ == "__main__":
    _main()
"""


@dataclass(frozen=True)
class Result:
    """Metrics that an evaluator gave."""

    metrics: dict[str, float]
    others: dict[str, str]
    """Type of each metric that is no number."""


class ProgramTask:
    """Functions `load`, `verify` and `gold` of an imported task, from its import.json and the copied files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._table: dict[str, Any] = json.loads((folder / "import.json").read_text())

    def load(self, split: Split) -> Iterable[Problem]:
        """Number the single problem: no data are held out, so gate and test repeat it."""
        count = self._table["problems"]
        first = SPLITS.index(split) * count
        public = {
            "description": self._table["description"],
            "program": self._initial,
            "program_name": self._table["program"],
            "evaluator": self._table["evaluator"],
            "metric": self._table["metric"],
            "named": self._table.get("named", False),
            "lower_is_better": self._table["lower_is_better"],
        }
        files = {name: (self._folder / "original" / name).read_bytes() for name in self._table["files"]}
        return [
            Problem(f"{self._table['name']}-{split}-{number:02d}", split, {**public, "repeat": first + number}, files)
            for number in range(count)
        ]

    def gold(self, _problem: Problem) -> dict[str, str]:
        """Return the initial program, which has to work."""
        return {"code": self._initial}

    def verify(self, problem: Problem, answer: Any, lab: Lab) -> Verdict:
        """Run the evaluator on {"code": source of the program}, both in the sandbox."""
        low, high = self._table["range"]
        code = answer.get("code") if isinstance(answer, dict) else None
        if not isinstance(code, str) or not 0 < len(code) <= MAX_CODE:
            said = f'invalid; the answer has to be {{"code": text of 1 to {MAX_CODE} characters}}'
            return Verdict(low, valid=False, feedback=said)
        found = self._evaluate(problem, code, lab)
        value, fault = (None, found) if isinstance(found, str) else self._score(found)
        if value is None and not isinstance(found, str) and code == self._initial:
            # The task's own program cannot be at fault: another program is left without a score.
            hint = "import again with --metric NAME, or correct the evaluator"
            raise TaskError(fault, where=f"{self._table['name']}, initial program", hint=hint)
        if value is None or isinstance(found, str):
            return Verdict(low, valid=False, feedback=f"invalid; {fault}"[:_SAID])
        finite = {name: number for name, number in found.metrics.items() if math.isfinite(number)}
        score = to_score(value, low, high, lower_is_better=self._table["lower_is_better"])
        said = ", ".join(f"{name} {value:.6g}" for name, value in found.metrics.items())
        return Verdict(score, metrics=finite, feedback=said)

    def _score(self, found: Result) -> tuple[float | None, str]:
        """Return the requested metric, or why there is none.

        A task imported without a metric takes combined_score, else the mean of all numbers, as OpenEvolve does.
        """
        name, metrics = self._table["metric"], found.metrics
        if name in metrics:
            value = metrics[name]
        elif name in found.others:
            return None, f"the evaluator gave {name} as {found.others[name]}, not as a number"
        elif name != "combined_score" or self._table.get("named") or not metrics:
            known = ", ".join(sorted({**metrics, **found.others})) or "none"
            return None, f"the evaluator gave no metric {name!r}; it gave: {known}"
        else:
            value = sum(metrics.values()) / len(metrics)
        return (value, "") if math.isfinite(value) else (None, f"the evaluator gave {name} {value}")

    def _evaluate(self, problem: Problem, code: str, lab: Lab) -> Result | str:
        """Return the evaluator's result, or the reason why there is none."""
        number, program = secrets.token_hex(16), self._table["program"]
        main = MAIN.replace("EVALUATOR", self._table["evaluator"]).replace("PROGRAM", program).replace("RESULT", RESULT)
        files = {**problem.files, program: code.encode(errors="replace"), "_main.py": main.encode()}
        files["_number"] = number.encode()
        result = lab.run(files, Limits(**self._table["limits"]), entry="_main.py", collect=[RESULT])
        if result.status == "infrastructure":
            raise SandboxError(result.reason, where=self._table["name"])
        if result.status != "ok":
            last = (result.stderr.strip().splitlines() or [""])[-1][:_SAID]
            return f"the evaluator ended with status {result.status}: {last or result.reason}"
        return _read(result.files.get(RESULT, b""), number)

    @property
    def _initial(self) -> str:
        file: Path = self._folder / "original" / self._table["initial"]
        return file.read_text()


def _read(data: bytes, number: str) -> Result | str:
    """Parse untrusted bytes: the program ran in the same process."""
    try:
        found = json.loads(data)
        metrics = {str(name): float(value) for name, value in found["metrics"].items()}
        others = {str(name): str(kind) for name, kind in found["others"].items()}
        ours = found["number"] == number
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "the evaluator left no result"
    return Result(metrics, others) if ours else "the result is not the evaluator's"

"""Run the evaluator on a program, as the verifier does."""

import dataclasses
import importlib.util
import json
import math
import sys
import types
from pathlib import Path


@dataclasses.dataclass
class EvaluationResult:
    """Stand-in for openevolve's result type, which some evaluators return."""

    metrics: dict
    artifacts: dict = dataclasses.field(default_factory=dict)


def main(source: str, problem_json: str) -> None:
    """Print rank and metrics as the last line."""
    problem = json.loads(problem_json)
    package, module = types.ModuleType("openevolve"), types.ModuleType("openevolve.evaluation_result")
    package.__path__, module.EvaluationResult = [], EvaluationResult
    sys.modules["openevolve"], sys.modules["openevolve.evaluation_result"] = package, module
    sys.path.insert(0, str(Path.cwd()))
    program = Path(problem["program_name"])
    program.write_text(source)
    spec = importlib.util.spec_from_file_location("evaluator", Path(problem["evaluator"]).absolute())
    evaluator = importlib.util.module_from_spec(spec)
    sys.modules["evaluator"] = evaluator
    spec.loader.exec_module(evaluator)
    found = evaluator.evaluate(str(program.absolute()))
    rank, said = judge(getattr(found, "metrics", found), problem)
    print("\n" + json.dumps({"rank": rank, "said": said}))


def judge(metrics: dict, problem: dict) -> tuple[float, str]:
    """Rank the metrics as the verifier scores them: by the task's metric, else by the mean of all numbers."""
    plain = {name: number(value) for name, value in metrics.items()}
    numbers = {name: float(value) for name, value in plain.items() if isinstance(value, int | float)}
    said = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())
    name = problem["metric"]
    if name not in numbers and (name in plain or name != "combined_score" or problem["named"] or not numbers):
        return 1e9, f"the evaluator gave no number as {name}; it gave: {said or 'none'}"
    score = numbers[name] if name in numbers else sum(numbers.values()) / len(numbers)
    return (score if problem["lower_is_better"] else -score) if math.isfinite(score) else 1e9, said


def number(value: object) -> object:
    """Return the Python number that equals a scalar of numpy, torch and the like."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value

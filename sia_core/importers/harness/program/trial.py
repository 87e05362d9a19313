"""Run the evaluator on a program, as the verifier does."""

import dataclasses
import importlib.util
import json
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
    metrics = getattr(found, "metrics", found)
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    score = numbers.get("combined_score", sum(numbers.values()) / max(len(numbers), 1))
    print(
        "\n" + json.dumps({"rank": -score, "said": ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())})
    )

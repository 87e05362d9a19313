"""Small tasks in the layouts of other systems, written for these tests."""

import random
from pathlib import Path

CASES = 60

EVALUATE = '''
"""Share of right labels: evaluate.py --gen-dir DIR leaves DIR/results.json."""
import argparse, csv, json
from pathlib import Path

TRUTH = Path(__file__).resolve().parents[2] / "data" / "private" / "test.csv"


def read(path):
    with path.open(newline="") as file:
        return {row["id"]: row["label"] for row in csv.DictReader(file)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gen-dir", type=Path)
    folder = parser.parse_args().gen_dir
    truth, guess = read(TRUTH), read(folder / "submission.csv")
    if set(guess) != set(truth):
        raise SystemExit("ids do not match")
    right = sum(guess[one] == label for one, label in truth.items())
    print("noise that nobody should mistake for a score")
    (folder / "results.json").write_text(json.dumps({"accuracy": right / len(truth), "n": len(truth), "per": {}}))
'''

GRADE = '''
import pandas as pd
from mlebench.grade_helpers import InvalidSubmissionError


def grade(submission: pd.DataFrame, answers: pd.DataFrame) -> float:
    """Root mean squared error of `price`."""
    if "price" not in submission.columns or len(submission) != len(answers):
        raise InvalidSubmissionError("a submission has id and price for every row")
    both = answers.merge(submission, on="id", suffixes=("", "_guess"), validate="one_to_one")
    if len(both) != len(answers):
        raise InvalidSubmissionError("ids do not match")
    guess = pd.to_numeric(both["price_guess"], errors="coerce")
    if not guess.abs().lt(1e12).all():
        raise InvalidSubmissionError("prices have to be finite numbers")
    return float(((both["price"] - guess) ** 2).mean() ** 0.5)
'''

PROGRAM = '''
# EVOLVE-BLOCK-START
def spread(n):
    """Points of [0, 1], far from one another."""
    return [0.5 * k / n for k in range(n)]
# EVOLVE-BLOCK-END
'''

EVALUATOR = """
import importlib.util
from openevolve.evaluation_result import EvaluationResult


def evaluate(program_path):
    spec = importlib.util.spec_from_file_location("program", program_path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    points = sorted(program.spread(11))
    if len(points) != 11 or points[0] < 0 or points[-1] > 1:
        return EvaluationResult(metrics={"combined_score": 0.0, "valid": 0.0})
    least = min(b - a for a, b in zip(points, points[1:]))
    return EvaluationResult(metrics={"combined_score": 10 * least, "valid": 1.0}, artifacts={"least": str(least)})
"""
BETTER = PROGRAM.replace("0.5 * k / n", "k / (n - 1)")


def write(folder: Path, files: dict[str, str]) -> Path:
    """A directory with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def sia_agent(folder: Path) -> Path:
    """Labels of numbered cases: data/public, data/private, evaluate.py."""
    rng = random.Random(3)
    labels = [rng.choice(["north", "south", "east", "west"]) for _ in range(CASES)]
    test = "id,text\n" + "".join(f"{n},case {n} points {label[:2]}\n" for n, label in enumerate(labels))
    truth = "id,label\n" + "".join(f"{n},{label}\n" for n, label in enumerate(labels))
    sample = "id,label\n" + "".join(f"{n},north\n" for n in range(CASES))
    return write(
        folder,
        {
            "data/public/task.md": "# Where does it point?\nEach case of test.csv points somewhere.",
            "data/public/test.csv": test,
            "data/public/sample_submission.csv": sample,
            "data/public/train.csv": "text,label\ncase a points no,north\n",
            "data/public/evaluate.py": EVALUATE,
            "data/private/test.csv": truth,
            "reference/notes.md": "not part of the task",
        },
    )


def mlebench(folder: Path) -> Path:
    """Prices of houses: prepared/public, prepared/private, grade.py."""
    rng = random.Random(5)
    rows = [(f"h{n:03d}", rng.randint(20, 200)) for n in range(CASES)]
    return write(
        folder,
        {
            "prepared/public/description.md": "Tell the price of a house from its area.",
            "prepared/public/train.csv": "id,area,price\na,50,100\nb,100,200\n",
            "prepared/public/test.csv": "id,area\n" + "".join(f"{one},{area}\n" for one, area in rows),
            "prepared/public/sample_submission.csv": "id,price\n" + "".join(f"{one},0\n" for one, _ in rows),
            "prepared/private/answers.csv": "id,price\n" + "".join(f"{one},{2 * area}\n" for one, area in rows),
            "grade.py": GRADE,
        },
    )


def openevolve(folder: Path) -> Path:
    """A task of points far apart: initial_program.py, evaluator.py."""
    return write(folder, {"initial_program.py": PROGRAM, "evaluator.py": EVALUATOR})

"""Run a program that should write a submission, and check the form of the file."""

import csv
import json
from pathlib import Path


def main(source: str, problem_json: str) -> None:
    """Print rank and comment as the last line."""
    problem = json.loads(problem_json)
    exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - in a sandbox of its own
    rank, said = look(problem)
    print("\n" + json.dumps({"rank": rank, "said": said}))


def look(problem: dict) -> tuple[float, str]:
    """Rank the form of the submission; the answers are not known here."""
    file = Path(problem["submission"])
    if not file.is_file():
        return 1e9, f"it left no {file.name}"
    if file.suffix != ".csv":
        return 0.0, f"it left {file.name}, {file.stat().st_size} bytes"
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        count, columns = len(list(reader)), list(reader.fieldnames or ())
    missing = [name for name in problem["columns"] if name not in columns]
    if missing:
        return 5e8, f"{file.name} lacks the columns {missing}; it has {columns}"
    if count != problem["rows"]:
        return 1e8 + abs(count - problem["rows"]), f"{file.name} has {count} rows, not {problem['rows']}"
    return 0.0, f"{file.name} has the right columns and {count} rows"

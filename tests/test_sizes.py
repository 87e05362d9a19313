"""Files and functions of the code stay small enough to be read at once."""

import ast
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
MEDIAN_FILE, LONGEST_FILE, LONGEST_FUNCTION = 110, 400, 60
"""Lines."""
FLOWS = 1000


def lines(top: str) -> dict[Path, int]:
    """Count the lines of each module that has any."""
    found = {path: len(path.read_text().splitlines()) for path in sorted((ROOT / top).rglob("*.py"))}
    return {path: count for path, count in found.items() if count}


def test_files_are_short() -> None:
    found = lines("sia_core") | lines("flows")
    assert median(found.values()) <= MEDIAN_FILE
    assert not {path: count for path, count in found.items() if count > LONGEST_FILE}


def test_flows_are_thin() -> None:
    assert sum(lines("flows").values()) <= FLOWS


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1}"
        for path in lines("sia_core") | lines("flows")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(long)

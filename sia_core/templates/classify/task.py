"""Texts with one label each: texts.csv holds them, split by split.

Put your own texts there, and your labels into LABELS. The right label never leaves this process.
"""

import csv
from pathlib import Path
from typing import Any

from sia_core import Lab, Problem, Split, Verdict

TEXTS = Path(__file__).parent / "texts.csv"
LABELS = ["good", "bad", "neutral"]


def load(split: Split) -> list[Problem]:
    """Problems of one split, always in the same order."""
    with TEXTS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return [
        Problem(f"{split}-{number}", split, public={"text": row["text"], "labels": LABELS}, private=row["label"])
        for number, row in enumerate(rows)
    ]


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    """Compare with the right label. `answer` comes from untrusted code, so check all of it first."""
    label = answer.get("label") if isinstance(answer, dict) else None
    if not isinstance(label, str) or label not in LABELS:
        return Verdict(0.0, valid=False, feedback=f'the answer has to be {{"label": one of {", ".join(LABELS)}}}')
    # Never give the right label: agents read feedback.
    right = label == problem.private
    return Verdict(float(right), feedback=f"{label} is {'right' if right else 'wrong'}")


def gold(problem: Problem) -> Any:
    """A right answer, for `sia check` alone."""
    return {"label": problem.private}


def baits(problem: Problem) -> dict[str, Any]:
    """Answers that must not pay, for `sia check` alone: write down every trick that you can think of."""
    return {
        "every label": {"label": ", ".join(LABELS)},
        "another case": {"label": problem.private.upper()},
        "more than was asked": [{"label": label} for label in LABELS],
    }

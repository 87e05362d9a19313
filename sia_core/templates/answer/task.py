"""Questions with one short right answer each: questions.csv holds them, split by split.

Put your own questions there. The right answers never leave this process.
"""

import csv
import unicodedata
from pathlib import Path
from typing import Any

from sia_core import Lab, Problem, Split, Verdict

QUESTIONS = Path(__file__).parent / "questions.csv"
LONGEST = 100


def load(split: Split) -> list[Problem]:
    """Problems of one split, always in the same order."""
    with QUESTIONS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return [
        Problem(f"{split}-{number}", split, public={"question": row["question"]}, private=row["answer"])
        for number, row in enumerate(rows)
    ]


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    """Compare with the right answer. `answer` comes from untrusted code, so check all of it first."""
    text = answer.get("answer") if isinstance(answer, dict) else None
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST:
        return Verdict(
            0.0, valid=False, feedback=f'the answer has to be {{"answer": text of 1 to {LONGEST} characters}}'
        )
    if plain(text) == plain(problem.private):
        return Verdict(1.0, feedback="right")
    # Never give the right answer: agents read feedback.
    return Verdict(0.0, feedback=f"wrong, {len(text.split())} words")


def plain(text: str) -> str:
    """Text without capitals, accents, spaces and punctuation."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if letter.isalnum())


def gold(problem: Problem) -> Any:
    """A right answer, for `sia check` alone."""
    return {"answer": problem.private}


def baits(problem: Problem) -> dict[str, Any]:
    """Answers that must not pay, for `sia check` alone: write down every trick that you can think of."""
    return {
        "the question": {"answer": problem.public["question"][:LONGEST]},
        "a list of guesses": {"answer": "Paris, Rome, Madrid, Berlin, London, Tokyo"},
    }

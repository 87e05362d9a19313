"""Reads the charge that a free reply ends with, as the verifier does: however it is punctuated, and only one."""

import re
import unicodedata

MARKS = re.compile(r"[\W_]+")


def letters(text: str) -> str:
    """A text without spacing, brackets and punctuation, in one width."""
    return MARKS.sub("", unicodedata.normalize("NFKC", text))


def stated(reply: str, charges: list[str]) -> str | None:
    """The only charge in the last line that is not blank; None where there is none, or are several."""
    last = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    by_letters = {letters(charge): charge for charge in charges}
    pattern = "|".join(map(re.escape, sorted(by_letters, key=len, reverse=True)))
    found = set(re.findall(pattern, letters(last[-2000:])))
    return by_letters[found.pop()] if len(found) == 1 else None

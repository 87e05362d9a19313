"""Which charges a text names, however it is punctuated: 非法制造、买卖枪支罪 as well as 非法[制造、买卖]枪支."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_MARKS = re.compile(r"[\W_]+")


def letters(text: str) -> str:
    """A text without spacing, brackets and punctuation, in one width."""
    return _MARKS.sub("", unicodedata.normalize("NFKC", text))


@lru_cache(maxsize=65536)
def named(text: str, charges: tuple[str, ...]) -> tuple[str, ...]:
    """The different charges in a text, in order; of names within names only the longest."""
    by_letters = {letters(charge): charge for charge in charges}
    found = _pattern(charges).findall(letters(text))
    return tuple(dict.fromkeys(by_letters[one] for one in found))


def stated(reply: str, charges: tuple[str, ...]) -> str | None:
    """The charge that a free reply ends with: the only one in its last line that is not blank; None without one."""
    last = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    return only(named(last[-2000:], charges))


def only(found: Sequence[str]) -> str | None:
    """The one element of a sequence; None where there is none, or are several."""
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=8)
def _pattern(charges: tuple[str, ...]) -> re.Pattern[str]:
    names = sorted(map(letters, charges), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)))

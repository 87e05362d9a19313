"""Which charges a text names, however it is punctuated: 非法制造、买卖枪支罪 as well as 非法[制造、买卖]枪支."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_MARKS = re.compile(r"[\W_]+")
_KEPT_CHARS = 100
"""Longer texts are read again each time: what a harness sends must not fill the memory."""
_LINE_CHARS = 2000


def letters(text: str) -> str:
    """A text without spacing, brackets and punctuation, in one width."""
    return _MARKS.sub("", unicodedata.normalize("NFKC", text))


class Reader:
    """Finds charges in texts. `reader` gives the one of a list."""

    def __init__(self, charges: tuple[str, ...]) -> None:
        self.charges = charges
        self._by_letters = {letters(charge): charge for charge in charges}
        names = sorted(self._by_letters, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)))
        self._known: dict[str, tuple[str, ...]] = {}

    def named(self, text: str) -> tuple[str, ...]:
        """The different charges in a text, in order; of names within names only the longest."""
        found = self._known.get(text)
        if found is None:
            found = tuple(dict.fromkeys(map(self._by_letters.__getitem__, self._pattern.findall(letters(text)))))
            if len(text) <= _KEPT_CHARS and len(self._known) < 1 << 16:
                self._known[text] = found
        return found

    def stated(self, reply: str) -> str | None:
        """The charge that a free reply ends with: the only one in its last line that is not blank; None without one."""
        last = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
        return only(self.named(last[-_LINE_CHARS:]))


@lru_cache(maxsize=8)
def reader(charges: tuple[str, ...]) -> Reader:
    """The reader of these charges."""
    return Reader(charges)


def only(found: Sequence[str]) -> str | None:
    """The one element of a sequence; None where there is none, or are several."""
    return found[0] if len(found) == 1 else None

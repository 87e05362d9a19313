"""Suggest the known name that a mistyped one resembles."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like `name`; empty if none is like it."""
    by_folded = {one.casefold().replace("-", "_"): one for one in known}
    found = get_close_matches(name.casefold().replace("-", "_"), by_folded, n=1)
    return by_folded[found[0]] if found else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'NAME'?` for the end of a message; empty if no known name is like it."""
    near = nearest(name, known)
    return f", did you mean {near!r}?" if near else ""


def near_spec(spec: str, known: Iterable[str]) -> str:
    """Do as `did_you_mean` for the kind of a spec, which is compared with known names and kinds such as `local:`."""
    kind, colon, _ = spec.partition(":")
    return did_you_mean(kind + colon, [one for one in known if one.endswith(":") is bool(colon)])

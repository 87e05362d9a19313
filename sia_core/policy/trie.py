"""The trie of options' token ids: what may follow what when one of them is to be chosen.

Options end in the same closing token, so none is a prefix of another. Nothing here recurses: an
option may be as long as a message.
"""

from collections.abc import Sequence

from sia_core.errors import PolicyError

Ids = tuple[int, ...]


def branches(options: Sequence[Ids]) -> dict[Ids, Ids]:
    """Every path at which options part, and the tokens that may follow it there.

    Raises:
        PolicyError: two options with the same tokens.
    """
    if len(set(options)) < len(options):
        raise PolicyError("two options have the same tokens", where="choose")
    found: dict[Ids, Ids] = {}
    waiting: list[tuple[Ids, Sequence[Ids]]] = [((), options)]
    while waiting:
        path, group = waiting.pop()
        if len(group) > 1:
            allowed = next_tokens(group, len(path))
            if len(allowed) > 1:
                found[path] = allowed
            waiting += [((*path, token), keep(group, len(path), token)) for token in reversed(allowed)]
    return found


def next_tokens(options: Sequence[Ids], at: int) -> Ids:
    """Tokens at one position, in the order in which options first need them."""
    return tuple(dict.fromkeys(option[at] for option in options))


def keep(options: Sequence[Ids], at: int, token: int) -> list[Ids]:
    """Options with that token at that position."""
    return [option for option in options if option[at] == token]

"""The trie of options' token ids: what may follow what when one of them is to be chosen.

Options end in the same closing token, so none is a prefix of another. Nothing here recurses: an
option may be as long as a message.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sia_core.policy.protocol import RejectedRequestError

Ids = tuple[int, ...]


def branches(options: Sequence[Ids]) -> dict[Ids, Ids]:
    """Every path at which options part, and the tokens that may follow it there.

    Raises:
        RejectedRequestError: two options with the same tokens.
    """
    if len(set(options)) < len(options):
        raise RejectedRequestError("two options have the same tokens", where="choose")
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


@dataclass
class Tree:
    """Paths laid side by side, what they share only once, so that one pass can read them all."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Node before each node, -1 before a first one. A parent comes before its children."""
    ends: dict[Ids, int] = field(default_factory=dict)
    """Path to its last node."""
    _nodes: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def chain(self) -> bool:
        """True if the parent of every node is the node just before that node."""
        return self.parents == list(range(-1, len(self.tokens) - 1))

    @property
    def depths(self) -> list[int]:
        """Nodes before each node on its path."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def add(self, path: Ids) -> None:
        """Add a path that is not empty."""
        node = -1
        for token in path:
            if (node, token) not in self._nodes:
                self._nodes[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
            node = self._nodes[node, token]
        self.ends[path] = node


def trees(paths: Iterable[Ids], limit: int) -> list[Tree]:
    """The paths that are not empty, in trees of about `limit` nodes: one path each when it is 1."""
    made: list[Tree] = []
    for path in paths:
        if not path:
            continue
        if not made or len(made[-1].tokens) + len(path) > limit:
            made.append(Tree())
        made[-1].add(path)
    return made

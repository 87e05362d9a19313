"""The trie of options' token ids, which restricts the sampling of a choice.

Options end in the same closing token, so none is a prefix of another. No function recurses, because an
option may be as long as a message.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sia_core.policy.protocol import RejectedRequestError

Ids = tuple[int, ...]


def branches(options: Sequence[Ids]) -> dict[Ids, Ids]:
    """Return every path at which options branch, and the tokens that may follow the path.

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
    """Tokens of the options at one position, in order of first use."""
    return tuple(dict.fromkeys(option[at] for option in options))


def keep(options: Sequence[Ids], at: int, token: int) -> list[Ids]:
    """Options with a token at a position."""
    return [option for option in options if option[at] == token]


@dataclass
class Tree:
    """Paths with shared beginnings stored once, so that one pass can read all of them."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Parent of each node, which comes before the node; -1 for the first node of a path."""
    ends: dict[Ids, int] = field(default_factory=dict)
    """Path -> its last node."""
    _nodes: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def chain(self) -> bool:
        """True if the parent of every node is the node just before that node."""
        return self.parents == list(range(-1, len(self.tokens) - 1))

    @property
    def depths(self) -> list[int]:
        """Number of nodes before each node on its path."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def add(self, path: Ids) -> None:
        """Add a non-empty path."""
        node = -1
        for token in path:
            if (node, token) not in self._nodes:
                self._nodes[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
            node = self._nodes[node, token]
        self.ends[path] = node


def trees(paths: Iterable[Ids], limit: int) -> list[Tree]:
    """Group non-empty paths in trees of about `limit` nodes; with limit 1, each path has its own tree."""
    made: list[Tree] = []
    for path in paths:
        if not path:
            continue
        if not made or len(made[-1].tokens) + len(path) > limit:
            made.append(Tree())
        made[-1].add(path)
    return made

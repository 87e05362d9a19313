"""The trie of options' token ids: what may follow what when one of them is to be chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sia_core.errors import PolicyError


@dataclass
class Node:
    """Tokens that may follow, in the order in which options first need them."""

    children: dict[int, "Node"] = field(default_factory=dict)

    @property
    def branches(self) -> bool:
        """Whether there is a choice at this node or below it."""
        return len(self.children) > 1 or any(child.branches for child in self.children.values())


def build(options: Sequence[tuple[int, ...]]) -> Node:
    """Trie of token sequences that each end in the same closing token, so that none is a prefix of another.

    Raises:
        PolicyError: two options with the same tokens.
    """
    if len(set(options)) < len(options):
        raise PolicyError("two options have the same tokens", where="choose")
    root = Node()
    for option in options:
        node = root
        for token in option:
            node = node.children.setdefault(token, Node())
    return root

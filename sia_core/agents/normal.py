"""Normal form of a harness: the parts that can change its behavior; equal rewrites have equal forms.

Comments and layout of an imported file do not count; those of a file that is only read do, because its text may
go into a prompt. From the manifest, the parsed values count, without name and the knobs' help and ranges.
"""

import ast
from collections.abc import Iterator
from functools import lru_cache

from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_bytes, digest_json

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""Errors that the parser raises; the last two for code that is nested beyond the parser's stack."""
_SILENT = ("README.md", "LICENSE")


def imported(harness: Harness) -> dict[str, ast.Module]:
    """Parse the entry and the files that it imports.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: a file cannot be parsed.
    """
    found: dict[str, ast.Module] = {}
    todo = [harness.config.entry]
    while todo:
        name = todo.pop()
        if name in found or name not in harness.files:
            continue
        found[name] = ast.parse(harness.files[name], filename=name)
        for _, module in imports(found[name]):
            base = module.replace(".", "/")
            todo += [f"{base}.py", f"{base}/__init__.py", *(f"{part}/__init__.py" for part in _parents(base))]
    return found


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every module imported anywhere in a file; `from a import b` may import a module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@lru_cache(maxsize=256)
def _normal_digest(files: tuple[tuple[str, bytes], ...]) -> str:
    harness = Harness(dict(files))
    trees = imported(harness)
    texts = {
        name: ast.dump(trees[name]) if name in trees else digest_bytes(data)
        for name, data in files
        if name not in (*_SILENT, "harness.toml")
    }
    return digest_json([manifest(harness), texts])


def normal_digest(harness: Harness) -> str:
    """Digest that is equal for two harnesses with the same normal form. Raises as `imported` does."""
    return _normal_digest(tuple(sorted(harness.files.items())))


def manifest(harness: Harness) -> dict[str, object]:
    """Values of the manifest that affect a rollout."""
    config = harness.config
    values = config.model_dump(mode="json", include={"entry", "modules", "needs", "budget"})
    return {**values, "knobs": harness.knobs}


def _parents(base: str) -> list[str]:
    parts = base.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]

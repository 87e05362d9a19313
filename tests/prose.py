"""Read the prose of pages, docstrings and messages, and find what the house rules refuse in it."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

from infra.docs import places

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
_BESIDE = ("infra/**/*.md", "sia_core/templates/*/README.md")
"""Texts for people that are no pages of the site."""
_FOUND = {*(ROOT / page for page in places(ROOT)), *(page for glob in _BESIDE for page in ROOT.glob(glob))}
PAGES = sorted(_FOUND - {GLOSSARY})
"""All pages of the documentation except the glossary, which has to list the avoided words."""
CODE = ("sia_core", "flows", "infra")
SHOWN_TO_MODELS = (
    *("sia_core/engine/sdk", "sia_core/templates"),
    *(f"sia_core/agents/{name}.py" for name in ("opening", "quote", "reference", "schema", "submission", "tools")),
)
"""Code whose texts a model reads: recorded decisions and replies depend on them."""
EXCEPTIONS = ("foreign key",)
"""Terms of the field that hold an avoided word."""

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
"""Code between backticks, within one paragraph."""
_LINK = re.compile(r"\]\([^)]*\)")
_ITEM = re.compile(r"^\s*(?:[-*] |\d+\. |\|)", re.MULTILINE)
_ENTRY = re.compile(r"^\s+[\w*, ]+: ", re.MULTILINE)
"""An argument or an error in a section of a docstring."""


@cache
def avoided() -> tuple[str, ...]:
    """List the words and phrases that the glossary's tables set in italics in their last column."""
    rows = (line for line in GLOSSARY.read_text().splitlines() if line.startswith("| "))
    return tuple(dict.fromkeys(word for row in rows for word in re.findall(r"\*([^*]+)\*", row.split("|")[-2])))


@cache
def _pattern() -> re.Pattern[str]:
    phrases = (r"\s+".join(map(re.escape, phrase.split())) for phrase in sorted(avoided(), key=len, reverse=True))
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)


def words_to_avoid(text: str) -> list[str]:
    """Find avoided words outside of code; a space keeps the words around code apart."""
    plain = without_code(text)
    for term in EXCEPTIONS:
        plain = re.sub(rf"\b{term}\b", " ", plain, flags=re.IGNORECASE)
    return [" ".join(found.group().lower().split()) for found in _pattern().finditer(plain)]


def without_code(text: str) -> str:
    """Blank code blocks, code spans and the targets of links."""
    return _LINK.sub("]", _SPAN.sub("X", _FENCE.sub("", text)))


def paragraphs(page: str) -> Iterator[str]:
    """Split Markdown into paragraphs; a heading, an item of a list and a cell of a table are one each."""
    apart = re.sub(r"^#.*$", r"\n\g<0>\n", without_code(page), flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n", apart):
        for part in _split_before(_ITEM, block):
            yield from part.split("|") if part.lstrip().startswith("|") else [part]


def docstring_paragraphs(text: str) -> Iterator[str]:
    """Split a docstring into paragraphs; an item of a list and an entry of a section are one each."""
    for part in paragraphs(text):
        yield from _split_before(_ENTRY, part)


def _split_before(beginning: re.Pattern[str], text: str) -> Iterator[str]:
    places = [0, *(found.start() for found in beginning.finditer(text)), len(text)]
    yield from (text[first:last] for first, last in pairwise(places) if text[first:last].strip())


def crowded(parts: Iterator[str]) -> list[str]:
    """Find paragraphs with more than one semicolon."""
    return [" ".join(part.split()) for part in parts if part.count(";") > 1]


def sources() -> list[Path]:
    """List the Python files whose texts people read."""
    files = sorted(path for top in CODE for path in (ROOT / top).rglob("*.py"))
    return [path for path in files if not _is_shown(PurePosixPath(path.relative_to(ROOT)))]


def _is_shown(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(shown) for shown in SHOWN_TO_MODELS)


def docstrings(code: str) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, those below fields among them."""
    for node in ast.walk(ast.parse(code)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
                yield one.lineno, one.value.value.strip()


def strings(code: str) -> Iterator[tuple[int, str]]:
    """Line and text of each string constant with a space, docstrings among them."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value

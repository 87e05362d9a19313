"""Check on a page's tree that the page is inert and accessible."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

import html5lib

NAMESPACE = re.compile(r"\{.*\}")
LINKED = ("src", "href", "action", "data", "poster", "srcset", "formaction", "background", "cite", "ping")
DEAD = {
    *("script", "img", "iframe", "object", "embed", "link", "form", "input", "button", "base", "video", "audio"),
    *("use", "image", "foreignObject", "animate", "set", "template", "noscript", "math"),
}
"""Elements that load something or do something: a page has none."""


def parse(page: str) -> Element:
    """Return the page's tree; an error of the HTML standard's parser is an error here."""
    tree: Any = html5lib.HTMLParser(strict=True).parse(page)
    root: Element = tree
    return root


def name_of(element: Element) -> str:
    """Tag of an element without its namespace."""
    return NAMESPACE.sub("", str(element.tag))


def elements(root: Element, *names: str) -> Iterator[Element]:
    """All elements of these names."""
    return (one for one in root.iter() if name_of(one) in names)


def text_of(element: Element) -> str:
    """Whole text of an element."""
    return "".join(element.itertext())


def check_inert(root: Element) -> None:
    """Check that nothing in a page runs, loads or leads elsewhere, and that the page's policy tells the browser so."""
    names = {name_of(one) for one in root.iter()}
    assert not names & DEAD, names & DEAD
    for one in root.iter():
        for key, value in one.attrib.items():
            assert not key.lower().startswith("on"), (one.tag, key)
            assert key != "style", "the policy allows no style attribute"
            if NAMESPACE.sub("", key) in LINKED:
                assert value.startswith("#"), (one.tag, key, value)
    metas = [one.attrib for one in elements(root, "meta")]
    policies = [meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none';")
    assert "unsafe" not in policies[0] and "http" not in policies[0]


def check_accessible(root: Element) -> None:
    """Check what a reader without sight, or without a mouse, needs; axe-core checks the rest (test_browser)."""
    assert next(elements(root, "html")).get("lang")
    assert len(list(elements(root, "main"))) == 1
    ids = [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids)), sorted(name for name in ids if ids.count(name) > 1)
    for one in root.iter():
        for name in one.get("aria-labelledby", "").split():
            assert name in ids, name
        if name_of(one) == "a" and one.get("href", "").startswith("#"):
            assert one.attrib["href"][1:] in ids, one.attrib["href"]
    for table in elements(root, "table"):
        assert text_of(next(elements(table, "caption"))).strip()
        assert all(head.get("scope") for head in elements(table, "th"))
    for picture in elements(root, "svg"):
        assert picture.get("aria-hidden") or text_of(next(elements(picture, "title"))).strip()
    levels = [int(name_of(one)[1]) for one in elements(root, "h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels

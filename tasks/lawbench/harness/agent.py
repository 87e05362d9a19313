"""Lets the policy pick the charge from a menu; the answer is what it picks most often."""

from collections import Counter
from typing import Any

from retrieval import Library

NEIGHBOURS = 10


async def solve(problem: dict[str, Any], ctx: Any) -> dict[str, str]:
    """An answer: {"label": charge}."""
    library, knobs = Library(ctx.shared), ctx.knobs
    case = problem["text"][: knobs["chars"]]
    if knobs["candidates"] == "all":
        menu, prompt = library.labels, f"案情：{case}\n罪名？"
        options = menu
    else:
        ranked = library.rank(problem["text"], knobs["ranking"])[: knobs["length"]]
        menu = [library.labels[charge] for charge in ranked]
        # Numbered, so that the first token of an option tells it from the others.
        options = [f"{number}. {charge}" for number, charge in enumerate(menu, 1)]
        shown = describe(problem["text"], library, ranked, options, knobs)
        prompt = f"案情：{case}\n{shown}\n罪名？"
    drawn = [await ctx.choose(prompt, options) for _ in range(knobs["votes"])]
    # Of equals the first: Counter keeps the order in which they were drawn.
    return {"label": menu[options.index(Counter(drawn).most_common(1)[0][0])]}


def describe(text: str, library: Library, ranked: list[int], options: list[str], knobs: dict[str, Any]) -> str:
    """The menu as the policy reads it, one line a charge."""
    lines = list(options)
    if knobs["support"] == "on":
        near = Counter(int(library.case_labels[case]) for case in library.cases_near(text, NEIGHBOURS))
        lines = [f"{line} ({near[charge]}/{NEIGHBOURS})" for line, charge in zip(lines, ranked, strict=True)]
    if knobs["examples"] == "on":
        quotes = [library.nearest(text, charge)[: knobs["chars"] // 4] for charge in ranked]
        lines = [f"{line}: {quote}" for line, quote in zip(lines, quotes, strict=True)]
    return "\n".join(lines)

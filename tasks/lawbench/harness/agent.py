"""Asks the policy which charge a case ended with, by a menu or in free text; the answer is what it says most often."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from charges import stated
from retrieval import Library

NEIGHBOURS = 10
RETRIES = 2


@dataclass(frozen=True)
class Question:
    """What the policy is asked."""

    case: str
    menu: list[str]
    """Charges to choose from, the likeliest first where similar cases say so."""
    lines: list[str]
    """One a charge, as the policy reads it; empty where the menu is too long to be shown."""


async def solve(problem: dict[str, Any], ctx: Any) -> dict[str, str | None]:
    """An answer: {"label": charge}; None where the policy names none."""
    question = ask(problem["text"], Library(ctx.shared), ctx.knobs)
    said = await (talk if ctx.knobs["reply"] == "chat" else choose)(question, ctx)
    if not said:
        return {"label": None}
    # Of equals the first: Counter keeps the order in which they were said.
    return {"label": Counter(said).most_common(1)[0][0]}


def ask(text: str, library: Library, knobs: dict[str, Any]) -> Question:
    """The question about one case."""
    case = text[: knobs["chars"]]
    if knobs["candidates"] == "all":
        return Question(case, library.labels, [])
    ranked = library.rank(text, knobs["ranking"])[: knobs["length"]]
    lines = [library.labels[charge] for charge in ranked]
    if knobs["support"] == "on":
        near = Counter(library.labels_near(text, NEIGHBOURS))
        lines = [f"{line} ({near[charge]}/{NEIGHBOURS})" for line, charge in zip(lines, ranked, strict=True)]
    if knobs["examples"] == "on":
        quoted = [library.nearest(text, charge)[: knobs["chars"] // 4] for charge in ranked]
        lines = [f"{line}: {quote}" for line, quote in zip(lines, quoted, strict=True)]
    return Question(case, [library.labels[charge] for charge in ranked], lines)


async def choose(question: Question, ctx: Any) -> list[str]:
    """One charge a vote, drawn from the menu."""
    if not question.lines:
        prompt = f"案情：{question.case}\n罪名？"
        return [await ctx.choose(prompt, question.menu) for _ in range(ctx.knobs["votes"])]
    # Numbered, so that the first token of an option tells it from the others.
    options = [f"{number}. {charge}" for number, charge in enumerate(question.menu, 1)]
    shown = "\n".join(f"{number}. {line}" for number, line in enumerate(question.lines, 1))
    prompt = f"案情：{question.case}\n{shown}\n罪名？"
    drawn = [await ctx.choose(prompt, options) for _ in range(ctx.knobs["votes"])]
    return [question.menu[options.index(option)] for option in drawn]


async def talk(question: Question, ctx: Any) -> list[str]:
    """Charges that free replies end with; one that ends with none is asked for again."""
    shown = "\n".join(question.lines or question.menu)
    prompt = ctx.prompt("ask.md", case=question.case, charges=shown)
    first = [{"role": "user", "content": prompt}]
    replies = await ctx.sample(first, n=ctx.knobs["votes"])
    said = [await settle([*first, reply.message], reply, ctx) for reply in replies]
    return [charge for charge in said if charge is not None]


async def settle(messages: list[dict[str, Any]], reply: Any, ctx: Any) -> str | None:
    """The charge of a reply, asked for again where it names none of the list in its last line."""
    charges = Library(ctx.shared).labels
    for _ in range(RETRIES):
        if stated(reply, charges) is not None:
            break
        messages.append({"role": "user", "content": ctx.prompt("again.md")})
        reply = await ctx.chat(messages)
        messages.append(reply.message)
    return stated(reply, charges)

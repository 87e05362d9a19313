"""Asks the policy in free text: list and similar cases in, reasons and a last line with the charge out.

A reply whose last line names no charge of the list, or several, is asked for again, in the same conversation.
"""

from collections import Counter
from typing import Any

from charges import stated
from retrieval import Library

RETRIES = 2
"""Times a reply is asked for again."""


async def solve(problem: dict[str, Any], ctx: Any) -> dict[str, str | None]:
    """An answer: {"label": charge}; None where no reply ends with one."""
    library = Library(ctx.shared)
    asked = [{"role": "user", "content": question(problem["text"], library, ctx)}]
    replies = await ctx.sample(asked, n=ctx.knobs["votes"])
    said = [await settle([*asked, reply.message], reply, library.labels, ctx) for reply in replies]
    charges = Counter(charge for charge in said if charge is not None)
    # Of equals the first: Counter keeps the order in which they were said.
    return {"label": charges.most_common(1)[0][0] if charges else None}


def question(text: str, library: Library, ctx: Any) -> str:
    """The prompt about one case."""
    knobs = ctx.knobs
    listed = library.labels
    if knobs["candidates"] == "similar":
        listed = [library.labels[charge] for charge in library.rank(text, knobs["ranking"])[: knobs["length"]]]
    quoted = [
        f"{library.text(case)[: knobs['chars'] // 4]}\n罪名：{library.labels[library.case_labels[case]]}"
        for case in library.cases_near(text, knobs["examples"])
    ]
    similar = ctx.prompt("similar.md", cases="\n\n".join(quoted)) if quoted else ""
    return str(ctx.prompt("ask.md", case=text[: knobs["chars"]], charges="\n".join(listed), similar=similar))


async def settle(messages: list[dict[str, Any]], reply: Any, charges: list[str], ctx: Any) -> str | None:
    """The charge of a reply, asked for again where its last line names none of the list."""
    for _ in range(RETRIES):
        if stated(reply, charges) is not None:
            break
        messages.append({"role": "user", "content": ctx.prompt("again.md")})
        reply = await ctx.chat(messages)
        messages.append(reply.message)
    return stated(reply, charges)

"""Asks the policy, reads a short answer out of its reply, and lets several replies vote."""

import re
from collections import Counter

NAME = re.compile(r"[^\W\d_a-z][\w'’.-]*(?: [^\W\d_a-z][\w'’.-]*)*")


async def solve(problem, ctx):
    """The answer handed in; `problem` is what `load` put into `public`."""
    prompt = ctx.prompt(ctx.knobs["prompt"], question=problem["question"])
    replies = await ctx.sample(prompt, n=ctx.knobs["votes"])
    answers = [read(reply, ctx.knobs["read"]) for reply in replies]
    return {"answer": Counter(answers).most_common(1)[0][0]}


def read(reply, how):
    """The answer in a reply."""
    line = next((line.strip() for line in reply.splitlines() if line.strip()), "?")
    _, found, behind = line.partition(" is ")
    name = NAME.search(behind)
    if how == "after_is" and found and name:
        line = name.group()
    return line.strip(" .!")[:100] or "?"

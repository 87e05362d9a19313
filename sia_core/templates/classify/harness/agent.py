"""Lets the policy choose one of the labels; several choices vote."""

from collections import Counter


async def solve(problem, ctx):
    """The answer handed in; `problem` is what `load` put into `public`."""
    prompt = ctx.prompt(ctx.knobs["prompt"], text=problem["text"])
    votes = [await ctx.choose(prompt, problem["labels"]) for _ in range(ctx.knobs["votes"])]
    return {"label": Counter(votes).most_common(1)[0][0]}

MENUS = {"poor": ["red", "green"], "rich": ["red", "green", "blue", "violet"]}


async def solve(problem, ctx):
    colour = await ctx.choose("Pick a colour:", MENUS[ctx.knobs["menu"]])
    await ctx.note(f"picked {colour}")
    return {"colour": colour}

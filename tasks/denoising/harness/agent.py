"""Picks a denoising program by a chain of small choices; the code of every program is the harness's own.

Each prompt names only what its choice depends on, so prompts repeat over problems and attempts.
With more than one attempt, the different programs picked are judged on X_train alone (inner.py), and
the best one that keeps the rules is the answer.
"""

import json
from pathlib import Path
from typing import Any

METHODS = {
    "plain": ["copy", "mean", "neighbours"],
    "wide": ["copy", "mean", "neighbours", "svd", "diffusion"],
}
TRANSFORMS = {"log": ["raw", "log"], "all": ["raw", "log", "sqrt"]}
SIZES = {
    "neighbours": ("Neighbours", {"coarse": ["3", "10"], "fine": ["3", "5", "10", "20", "40"]}),
    "svd": ("Rank", {"coarse": ["1", "30"], "fine": ["2", "4", "8", "16", "30"]}),
    "diffusion": ("Steps", {"coarse": ["2", "8"], "fine": ["1", "2", "3", "5", "8"]}),
}
RAW = {"off": [], "on": ["0", "15", "30", "50"]}
EXPECTED = {"off": [], "on": ["0", "20", "40", "70", "100"]}

Settings = dict[str, Any]


async def solve(_problem: dict[str, Any], ctx: Any) -> dict[str, str]:
    """An answer: the source of a module with denoise(X)."""
    programs = [write(await pick(ctx)) for _ in range(ctx.knobs["attempts"])]
    return {"code": await best(list(dict.fromkeys(programs)), ctx)}


async def pick(ctx: Any) -> Settings:
    """One program's settings, chosen one after the other."""
    knobs = ctx.knobs
    method = await ctx.choose("Denoise cell counts. Method?", METHODS[knobs["methods"]])
    if method == "copy":
        return {"METHOD": method}
    transform = await ctx.choose(f"Denoise by {method}. Transform?", TRANSFORMS[knobs["transforms"]])
    chosen = {"METHOD": method, "TRANSFORM": transform}
    about = f"{method} of {transform} counts."
    if method in SIZES:
        word, sizes = SIZES[method]
        chosen["SIZE"] = int(await ctx.choose(f"{about} {word}?", sizes[knobs["sizes"]]))
    if RAW[knobs["raw"]]:
        chosen["RAW"] = int(await ctx.choose(f"{about} Percent kept raw?", RAW[knobs["raw"]])) / 100
    if EXPECTED[knobs["expected"]]:
        percent = await ctx.choose(f"{about} Percent expected log?", EXPECTED[knobs["expected"]])
        chosen["EXPECTED"] = int(percent) / 100
    return chosen


def write(settings: Settings) -> str:
    """The program with these settings: denoiser.py, its constants set anew at the end."""
    return read("denoiser.py") + "\n\n" + "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def read(name: str) -> str:
    """Text of a file of this harness."""
    return Path(__file__).with_name(name).read_text()


async def best(programs: list[str], ctx: Any) -> str:
    """The program with the least inner error among those that keep the rules; the first if none does."""
    if len(programs) == 1:
        return programs[0]
    judged = [(await judge(program, ctx), number) for number, program in enumerate(programs)]
    await ctx.note("inner errors: " + ", ".join(f"{error:.4f}" for error, _ in judged))
    return programs[min(judged)[1]]


async def judge(program: str, ctx: Any) -> float:
    """Inner error of a program; infinite if it breaks a rule or fails."""
    call = '\nreport(denoise, lambda X: smoothed(X, "diffusion", "sqrt", 3, 0.0))\n'
    result = await ctx.run(program + "\n\n" + read("inner.py") + call, seconds=20.0)
    if result["status"] != "ok":
        return float("inf")
    found = json.loads(result["stdout"])
    return float(found["error"]) if found["valid"] else float("inf")

"""Writes a `custom_kernel(data)` program: from a menu of building blocks, or by a model that writes code.

Mode `menu`: the policy picks one block after the other by short choices, and the harness puts the program
together. Mode `code`: the policy is shown the task and the naive program and writes a whole one; the harness takes the
code out of the reply, tries it in the sandbox at small shapes against a plain computation, and hands back what went
wrong, a few times. The last program that was right is the answer, else the naive one.
"""

import json
import re
from pathlib import Path
from typing import Any

FORMS = {"plain": ["rows", "chunk"], "wide": ["rows", "chunk", "einsum", "batched"]}
PROJECT = {"apart": [], "choose": ["apart", "together"]}
GATE = {"new": [], "choose": ["new", "place"]}
DTYPE = {"float32": [], "choose": ["float32", "bfloat16"]}
THREADS = {"one": [], "choose": ["1", "2"]}

CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
TRIAL_S = 60.0
SAID = 1500


async def solve(problem: dict[str, Any], ctx: Any) -> dict[str, str]:
    """An answer: the source of a module with custom_kernel(data)."""
    if ctx.knobs["mode"] == "code":
        return {"code": await written(problem, ctx)}
    return {"code": program(await pick(ctx))}


async def pick(ctx: Any) -> dict[str, Any]:
    """One program's settings, chosen one after the other. A menu with one dish is not asked about."""
    knobs = ctx.knobs
    form = await ctx.choose("Fast triangle update. Contraction?", FORMS[knobs["forms"]])
    chosen: dict[str, Any] = {"FORM": form}
    about = f"Triangle update by {form}."
    if PROJECT[knobs["project"]]:
        chosen["PROJECT"] = await ctx.choose(f"{about} Projections?", PROJECT[knobs["project"]])
    if GATE[knobs["gate"]]:
        chosen["GATE"] = await ctx.choose(f"{about} Tensors of the gates?", GATE[knobs["gate"]])
    if DTYPE[knobs["dtype"]]:
        chosen["DTYPE"] = await ctx.choose(f"{about} Number type?", DTYPE[knobs["dtype"]])
    if THREADS[knobs["threads"]]:
        chosen["THREADS"] = int(await ctx.choose(f"{about} Threads?", THREADS[knobs["threads"]]))
    return chosen


def program(settings: dict[str, Any]) -> str:
    """The program with these settings: kernel.py, its constants set anew at the end."""
    return read("kernel.py") + "\n\n" + "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def read(name: str) -> str:
    """Text of a file of this harness."""
    return Path(__file__).with_name(name).read_text()


async def written(problem: dict[str, Any], ctx: Any) -> str:
    """The best program that the policy wrote; the naive one where none was right."""
    naive = program({})
    best, best_s = naive, float("inf")
    ask = ctx.prompt("write.md", device=problem["device"], shapes=problem["shapes"], naive=read("kernel.py"))
    messages = [{"role": "user", "content": ask}]
    for _ in range(ctx.knobs["attempts"]):
        reply = await ctx.chat(messages, max_tokens=ctx.knobs["reply_tokens"])
        found = CODE.findall(reply)
        if found:
            tried = await attempt(found[-1], ctx)
            said = tried["said"]
            if tried["right"] and tried["seconds"] < best_s:
                best, best_s = found[-1], tried["seconds"]
        else:
            said = "no program was found: put it whole into one block that begins with ```python"
        await ctx.note(said[:200])
        more = ctx.prompt("again.md", said=said)
        messages += [{"role": "assistant", "content": str(reply)}, {"role": "user", "content": more}]
    return best


async def attempt(code: str, ctx: Any) -> dict[str, Any]:
    """Try a program: whether it is right, what it took, and what to tell the policy."""
    trial = f"CODE = {code!r}\nNAIVE = {program({})!r}\n\n{read('trial.py')}\n\nprint(report(CODE, NAIVE))\n"
    result = await ctx.run(trial, seconds=TRIAL_S)
    wrong = {"right": False, "seconds": float("inf")}
    if result["status"] != "ok":
        said = (result["stderr"].strip().splitlines() or [result["reason"]])[-1]
        return {**wrong, "said": f"it ended with status {result['status']}: {said[:SAID]}"}
    try:
        found = json.loads(result["stdout"].strip().splitlines()[-1])
        return {"right": bool(found["right"]), "seconds": float(found["seconds"]), "said": str(found["said"])[:SAID]}
    except (IndexError, KeyError, TypeError, ValueError):
        return {**wrong, "said": "it spoiled the trial's output: print nothing"}

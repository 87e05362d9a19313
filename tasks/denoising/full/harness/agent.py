"""Let the policy write a whole denoising program, try the program on X_train alone, and let the policy repair it.

A trial splits the molecules of X_train once more (trial.py) and applies the task's own rules to that split. Of all
programs that ran, the one with the least inner error that keeps the rules is the answer; where none does, the last one.
"""

import json
import re
from pathlib import Path
from typing import Any

from sia_sdk import GatewayError

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
MAX_CODE = 100_000
SHOWN = 1500
"""Characters of a traceback that go back to the policy."""

Trial = dict[str, Any]


async def solve(problem: dict[str, Any], ctx: Any) -> dict[str, str]:
    """An answer: the source of a module with denoise(X)."""
    hints = ctx.prompt("methods") if ctx.knobs["hints"] == "methods" else ""
    messages = [{"role": "user", "content": ctx.prompt("first", hints=hints, **problem)}]
    tried: list[tuple[Trial, str]] = []
    for left in reversed(range(ctx.knobs["attempts"])):
        try:
            reply = await ctx.chat(messages)
            trial, code = await judged(reply, ctx)
        except GatewayError as error:
            if error.kind != "budget" or not tried:
                raise
            break  # What was written so far is the answer.
        tried.append((trial, code))
        await ctx.note(f"attempt {len(tried)}: {said_of(trial)}"[:500])
        messages += [reply.message, {"role": "user", "content": ctx.prompt("again", trial=said_of(trial), left=left)}]
    return {"code": min(tried[::-1], key=lambda one: one[0]["rank"])[1]}


async def judged(reply: Any, ctx: Any) -> tuple[Trial, str]:
    """Return the result of a trial of the reply's program, and the program."""
    code = read_code(reply)
    if code is None:
        cut = " It was cut at the token limit." if reply.finish == "length" else ""
        return {"rank": 4e9, "fault": f"there is no ```python block with a function denoise(X) in it.{cut}"}, ""
    if len(code) > MAX_CODE:
        return {"rank": 3e9, "fault": f"the program has {len(code)} characters, at most {MAX_CODE} are taken"}, code
    return await run_trial(code, ctx), code


def read_code(reply: str) -> str | None:
    """The last fenced block that defines denoise, or the whole reply where it is nothing but code."""
    blocks = [block for block in FENCE.findall(reply) if "def denoise" in block]
    if blocks:
        return str(blocks[-1])
    bare = "```" not in reply and re.search(r"^def denoise\(", reply, re.MULTILINE)
    return str(reply) if bare else None


async def run_trial(code: str, ctx: Any) -> Trial:
    """Run the program against an inner split of X_train."""
    trial = Path(__file__).with_name("trial.py").read_text()
    result = await ctx.run(f"{trial}\n\nmain({code!r})\n", seconds=60.0)
    if result["status"] != "ok":
        tail = (result["stderr"].strip() or result.get("reason", ""))[-SHOWN:]
        return {"rank": 2e9, "fault": f"it ended with status {result['status']}:\n{tail}"}
    try:
        found: Trial = json.loads(result["stdout"].splitlines()[-1])
    except (ValueError, IndexError):
        return {"rank": 2e9, "fault": "it printed over the result of its trial: let it print nothing"}
    found["rank"] = found.get("error", 2e9) + (1e9 if "fault" in found else 0.0)
    return found


def said_of(trial: Trial) -> str:
    """One paragraph on a trial, for the policy and the record."""
    if "score" not in trial:
        return str(trial["fault"])
    figures = (
        "score {score:.4f} (0 is X itself, MAGIC {magic_score:.4f}); Poisson {poisson:.4f}, at least {least:.4f}; \
top-gene share {share:.4f}, at most {most:.4f}; {seconds:.1f} s".format(**trial)
    )
    return f"{trial['fault']} ({figures})" if "fault" in trial else f"it keeps the rules: {figures}"

"""Lets the policy write a program, tries it in the sandbox, and lets it mend what it wrote.

A trial runs the program next to the problem's public files, with trial.py around it, which prints as its last line
{"rank": number, "said": text}: less is better, 1e9 and more is no answer. The best program is the answer.
"""

import json
import re
from pathlib import Path
from typing import Any

from sia_sdk import GatewayError

FENCE = re.compile(r"```[a-z]*[ \t]*\n(.*?)```", re.DOTALL)
SHOWN = 1500
"""Characters of a traceback that go back to the policy."""


async def solve(problem: dict[str, Any], ctx: Any) -> dict[str, str]:
    """An answer: the source of a program."""
    messages = [{"role": "user", "content": ctx.prompt("first", **{**problem, "files": listed(problem)})}]
    tried: list[tuple[float, str]] = []
    for left in reversed(range(ctx.knobs["attempts"])):
        try:
            reply = await ctx.chat(messages)
            rank, said, code = await judged(reply, problem, ctx)
        except GatewayError as error:
            if error.kind != "budget" or not tried:
                raise
            break  # What was written so far is the answer.
        tried.append((rank, code))
        await ctx.note(f"attempt {len(tried)}: {said}"[:500])
        messages += [reply.message, {"role": "user", "content": ctx.prompt("again", said=said, left=left)}]
    return {"code": min(tried[::-1], key=lambda one: one[0])[1]}


def listed(problem: dict[str, Any]) -> str:
    """The public files and their sizes, a line each."""
    return "\n".join(f"- {name} ({size} bytes)" for name, size in problem.get("files", {}).items())


async def judged(reply: Any, problem: dict[str, Any], ctx: Any) -> tuple[float, str, str]:
    """Rank of the reply's program, what is to be said of it, and the program."""
    blocks = FENCE.findall(reply)
    if not blocks:
        cut = " It was cut at the token limit." if reply.finish == "length" else ""
        return 4e9, f"there is no ``` block with a program in it.{cut}", ""
    code = max(blocks, key=len)
    trial = Path(__file__).with_name("trial.py").read_text()
    result = await ctx.run(f"{trial}\n\nmain({code!r}, {json.dumps(problem)!r})\n", seconds=60.0)
    if result["status"] != "ok":
        tail = (result["stderr"].strip() or result.get("reason", ""))[-SHOWN:]
        return 2e9, f"it ended with status {result['status']}:\n{tail}", code
    try:
        found = json.loads(result["stdout"].splitlines()[-1])
        return float(found["rank"]), str(found["said"])[:SHOWN], code
    except (ValueError, IndexError, KeyError, TypeError):
        return 3e9, "it printed over the result of its trial: let it print nothing at its end", code

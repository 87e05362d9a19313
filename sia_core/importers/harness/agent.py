"""Let the policy write a program, try it in the sandbox, and let the policy fix it.

A trial runs the program next to the problem's public files, wrapped in trial.py, which prints as its last line
{"rank": number, "said": text}. Lower ranks are better, and 1e9 or more is no answer. The best program is the answer.
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
    """Return the answer: the source of a program."""
    messages = [{"role": "user", "content": ctx.prompt("first", **{**problem, "files": listed(problem)})}]
    tried: list[tuple[float, str]] = []
    for left in reversed(range(ctx.knobs["attempts"])):
        try:
            reply = await ctx.chat(messages)
            rank, said, code = await judged(reply, problem, ctx)
        except GatewayError as error:
            if error.kind != "budget" or not tried:
                raise
            break  # The best program so far is the answer.
        tried.append((rank, code))
        await ctx.note(f"attempt {len(tried)}: {said}"[:500])
        messages += [reply.message, {"role": "user", "content": ctx.prompt("again", said=said, left=left)}]
    return {"code": min(tried[::-1], key=lambda one: one[0])[1]}


def listed(problem: dict[str, Any]) -> str:
    """List the public files and their sizes, one per line."""
    return "\n".join(f"- {name} ({size} bytes)" for name, size in problem.get("files", {}).items())


async def judged(reply: Any, problem: dict[str, Any], ctx: Any) -> tuple[float, str, str]:
    """Return rank, comment and text of the reply's program."""
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

"""A rollout as text, in two layers: raw, with every recorded character, and cleaned, for reading.

Both show the gateway's record and the verdict. The harness's own words (`notes`) are marked as such.
"""

import json
from collections.abc import Iterator

from sia_core.agents.quote import elide
from sia_core.domain.rollout import ProgramRun, Rollout, Turn

SHORT_ID = 12
_PROMPT, _REPLY, _ANSWER, _NOTE, _CODE, _OUTPUT = 2400, 2400, 1200, 600, 1200, 600
"""Characters shown of each part in the cleaned layer."""


def short(key: str) -> str:
    """Shorten a rollout's id for agents."""
    return key[:SHORT_ID]


def raw(rollout: Rollout) -> str:
    """Return a rollout's whole record: prompts and replies, then answer, verdict and notes."""
    return "\n".join(_parts(rollout, clean=False))


def cleaned(rollout: Rollout) -> str:
    """Return a rollout's record without repetition: only the new part of each prompt, long parts elided."""
    return "\n".join(_parts(rollout, clean=True))


def _parts(rollout: Rollout, *, clean: bool) -> Iterator[str]:
    before = ""
    for number, turn in enumerate(rollout.turns, 1):
        kept = "" if turn.prompt_ids is None else ", ids recorded"
        yield f"[turn {number}: {turn.kind}, {turn.tokens} tokens, finish {turn.finish}{kept}]"
        yield "asked:"
        yield elide(_new_part(before, turn.prompt), _PROMPT) if clean else turn.prompt
        yield "said:"
        yield elide(_reply(turn), _REPLY) if clean else _reply(turn)
        before = turn.prompt
    for number, run in enumerate(rollout.programs, 1):
        yield from _program(number, run, clean=clean)
    answer = json.dumps(rollout.answer, ensure_ascii=False)
    yield f"[answer]\n{elide(answer, _ANSWER) if clean else answer}"
    yield f"[outcome] {outcome(rollout)}"
    if rollout.verdict is not None:
        metrics = ", ".join(f"{name} {value:.6g}" for name, value in sorted(rollout.verdict.metrics.items()))
        yield f"[verifier] {rollout.verdict.feedback or 'no feedback'}; metrics: {metrics or 'none'}"
    for note in rollout.notes:
        yield f"[the harness's own words]\n{elide(note, _NOTE) if clean else note}"


def _program(number: int, run: ProgramRun, *, clean: bool) -> Iterator[str]:
    yield f"[program {number}: {run.status}{f': {run.reason}' if run.reason else ''}]"
    yield elide(run.code, _CODE) if clean else run.code
    for name, text in (("stdout", run.stdout), ("stderr", run.stderr)):
        if text:
            yield f"[{name} of program {number}]\n{elide(text, _OUTPUT) if clean else text}"


def outcome(rollout: Rollout) -> str:
    """Describe the outcome in one line: the score, and the failure if there is one."""
    if rollout.failure is not None:
        scored = "unscored" if rollout.failure.infrastructure else "score 0"
        return f"{scored}, failed: {rollout.failure.kind}: {rollout.failure.reason}"
    if rollout.verdict is not None and not rollout.verdict.valid:
        return f"score {rollout.score:.6g}, refused by the verifier"
    return f"score {rollout.score:.6g}"


def _reply(turn: Turn) -> str:
    calls = [f"{call.name}({call.arguments})" for call in turn.tool_calls]
    return "\n".join([turn.output, *calls]) if calls else turn.output


def _new_part(before: str, prompt: str) -> str:
    """Return what a prompt adds to the previous one, from the start of the line where the two prompts part."""
    pairs = enumerate(zip(before, prompt, strict=False))
    shared = next((at for at, (old, new) in pairs if old != new), min(len(before), len(prompt)))
    start = prompt.rfind("\n", 0, shared) + 1
    return f"(the same {start} characters as before, then)\n{prompt[start:]}" if start > _ANSWER else prompt

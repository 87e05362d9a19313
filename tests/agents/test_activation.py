"""Activation separates the effects of a change on a rollout from those of the policy."""

from dataclasses import replace

import pytest

from sia_core.agents import activation
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import ProgramRun, Rollout, Trace, Turn, Unit, Verdict

TOML = b'name = "h"\n[knobs.n]\nvalue = 1\nrange = [1, 4]\n'
AGENT = "LIMIT = 1\n\n\nasync def solve(problem, ctx):\n    if problem:\n        return 1\n    return 2\n"


def make(agent: str = AGENT, prompt: str = "Pick {what} now:\n", toml: bytes = TOML) -> Harness:
    return Harness.from_files({"harness.toml": toml, "agent.py": agent.encode(), "prompts/ask": prompt.encode()})


def rollout(prompt: str = "user: Pick", output: str = "a", answer: object = 1, trace: Trace | None = None) -> Rollout:
    unit = Unit("t", "h", "p", None, "train", "p1", 0)
    return Rollout(unit, (Turn("chat", prompt, output, None, 1.0),), answer, trace=trace)


def seen(child: Harness, one: Rollout, parent: Rollout | None = None) -> tuple[bool, bool]:
    found = activation.sight(activation.changes(make(), child), one, parent or rollout())
    return found.ran, found.differs


def test_changed_line_counts_when_it_was_run() -> None:
    child = make(AGENT.replace("return 2", "return 3"))
    assert seen(child, rollout(trace=Trace({"agent.py": (5, 6)}, ()))) == (False, False)
    assert seen(child, rollout(trace=Trace({"agent.py": (5, 7)}, ()))) == (True, False)


def test_dead_and_module_level_code_counts_for_nothing() -> None:
    dead = make(AGENT + "\n\ndef unused():\n    return 5\n")
    assert activation.changes(make(), dead).lines == {("agent.py", 11)}
    assert not activation.changes(make(), make(AGENT.replace("LIMIT = 1", "LIMIT = 2"))).lines


def test_changed_prompt_counts_when_the_gateway_saw_it() -> None:
    child = make(prompt="Choose {what} at once:\n")
    assert seen(child, rollout()) == (False, False)
    assert seen(child, rollout("user: Choose a colour at once:"), rollout("user: Choose a colour at once:"))[0]


def test_moved_knob_counts_when_it_was_read() -> None:
    child = make(toml=TOML.replace(b"value = 1", b"value = 2"))
    assert seen(child, rollout(trace=Trace({}, ()))) == (False, False)
    assert seen(child, rollout(trace=Trace({}, ("n",))))[0]


def test_changed_text_counts_in_options_answers_and_programs() -> None:
    child = make(AGENT.replace("LIMIT = 1", 'TEMPLATE = "scale the rows"'))
    plain = rollout()
    turn = replace(plain.turns[0], options=('x\nTEMPLATE = "scale the rows"',))
    for one in (
        replace(plain, turns=(turn,)),
        replace(plain, answer={"code": '# made\nTEMPLATE = "scale the rows"\n'}),
        replace(plain, programs=(ProgramRun('TEMPLATE = "scale the rows"', "ok"),)),
    ):
        assert seen(child, one, one) == (True, False)


WORTH = replace(rollout(), verdict=Verdict(0.2))


@pytest.mark.parametrize(
    ("child", "parent", "differs"),
    [
        (rollout(), rollout(), False),
        (rollout("user: Other"), rollout(), True),
        (rollout(answer=2), rollout(), True),
        (rollout(output="b", answer=2), rollout(), True),
        (replace(rollout(), turns=(replace(rollout().turns[0], options=("a", "b")),)), rollout(), True),
        (replace(rollout(), turns=()), rollout(), True),
        (replace(rollout(), programs=(ProgramRun("x = 1", "ok"),)), rollout(), True),
        (replace(WORTH, verdict=Verdict(0.3)), WORTH, True),
        (replace(WORTH, seconds=3.0, trace=Trace({}, ())), WORTH, False),
    ],
)
def test_rollouts_recorded_otherwise_differ(child: Rollout, parent: Rollout, differs: bool) -> None:
    assert activation.differs(child, parent) is differs

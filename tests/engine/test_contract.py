"""The rungs that run a rewrite alone in the sandbox, and the trace of what it ran."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read, write
from sia_core.domain.lineage import RungResult
from sia_core.domain.rollout import Unit
from sia_core.domain.task import Task
from sia_core.engine import contract
from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.scripted import ScriptedPolicy
from tests.factories import TOY

TOML = b'name = "h"\n[budget]\ncalls = 6\nseconds = 20\n[knobs.n]\nvalue = 2\nrange = [1, 4]\n'
ASK = "    return await ctx.chat('Say')\n"


@pytest.fixture(scope="module")
def runner() -> Iterator[RolloutRunner]:
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    runner = RolloutRunner(Task.load(TOY), "strict")
    yield runner
    runner.close()


def harness(body: str = ASK, before: str = "") -> Harness:
    source = f"{before}\nasync def solve(problem, ctx):\n{body}"
    return Harness.from_files({"harness.toml": TOML, "agent.py": source.encode(), "helper.py": b"x = 1\ny = 1 / 0\n"})


def play(runner: RolloutRunner, child: Harness, parent: Harness | None = None) -> RungResult:
    return check_contract(runner, Task.load(TOY), ["train-1"], child, parent)


def test_sound_harness_can_be_imported(runner: RolloutRunner) -> None:
    found = check_import(runner, harness(before="print('hello')\n"))
    assert found.passed, found
    assert found.details == ("prints when it is imported",)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import helper\n", "helper.py:2: ZeroDivisionError"),
        ("import no_such_module\n", "agent.py:1: ModuleNotFoundError"),
        ("import os\nos.write(int(os.environ['SIA_STREAM']), b'x')\n", "writes to the gateway's stream"),
        ("while True: pass\n", "timeout: "),
        ("import sys\nsys.exit(3)\n", "agent.py:2: "),
    ],
)
def test_failing_import_names_the_line(
    runner: RolloutRunner, monkeypatch: pytest.MonkeyPatch, before: str, words: str
) -> None:
    monkeypatch.setattr(contract, "IMPORT_S", 1.5)
    found = check_import(runner, harness(before=before))
    assert (found.rung, found.passed) == ("import", False)
    assert words in found.reason or (words == "agent.py:2: " and "error: exit code 3" in found.reason)


@pytest.mark.parametrize(
    "body",
    [
        ASK,
        "    return await ctx.choose('Pick', ['red', 'blue'])\n",
        "    text = ''\n    while not text:\n        text = await ctx.chat('Say')\n    return text\n",
    ],
)
def test_sound_harnesses_pass(runner: RolloutRunner, body: str) -> None:
    found = play(runner, harness(body))
    assert found.passed, found
    assert found.metrics == {"rejecting": 0, "warnings": 0}


def test_toy_harness_passes_the_contract(runner: RolloutRunner) -> None:
    assert play(runner, Harness.load(Task.load(TOY).path / "harness")).passed


def test_crashes_are_named_by_reply_and_line(runner: RolloutRunner) -> None:
    found = play(runner, harness("    return (await ctx.chat('Say')).split()[1]\n"), harness())
    assert found.reason.startswith("crash on empty replies: agent.py:3: IndexError"), found
    # What the parent does as well is no fault of the rewrite's.
    inherited = play(
        runner,
        harness("    return (await ctx.chat('Say')).split()[1]\n"),
        harness("    return (await ctx.chat('Say')).split()[1]\n# other\n"),
    )
    assert inherited.passed, inherited
    assert any("(so does the parent)" in warning for warning in inherited.details)


def test_crash_on_a_malformed_tool_call_is_a_warning(runner: RolloutRunner) -> None:
    body = (
        "    tool = {'type': 'function', 'function': {'name': 'add'}}\n"
        "    reply = await ctx.chat('Say', tools=[tool])\n"
        "    return [json.loads(call['arguments']) for call in reply.tool_calls]\n"
    )
    found = play(runner, harness(body, "import json"))
    assert found.passed
    assert found.details[0].startswith("crash on malformed replies: agent.py:5: json.decoder.JSONDecodeError")


def test_endless_retries_of_a_harness_count_as_a_hang(runner: RolloutRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "LEAST_S", 1.5)
    body = (
        "    while True:\n        try:\n            return await ctx.chat('Say')\n"
        "        except Exception:\n            await asyncio.sleep(0.1)\n"
    )
    found = play(runner, harness(body, "import asyncio"), harness())
    assert not found.passed
    said = (found.reason, *found.details)
    assert said[0].startswith("hang on ")
    assert any(one.startswith("hang on unreachable replies") for one in said), said


def test_rewrite_that_no_longer_asks_the_policy_is_named(runner: RolloutRunner) -> None:
    found = play(runner, harness("    return 1\n"), harness())
    assert found.reason == "silent on plain replies: the policy was never asked"
    assert play(runner, harness("    return 1\n"), harness("    return 2\n")).passed


def test_twin_rollout_shares_randomness_and_is_traced(runner: RolloutRunner) -> None:
    task = Task.load(TOY)
    parent = harness("    if not problem:\n        return 0\n    return [ctx.rng.random(), await ctx.chat('Say')]\n")
    child = harness("    x = ctx.knobs['n']\n" + parent.files["agent.py"].decode().split("ctx):\n")[1])
    unit = Unit(task.digest, parent.digest, ScriptedPolicy.digest, None, "train", "train-1", 3)
    twin = replace(unit, harness=child.digest, twin=unit.key)
    alone = runner.play(unit, parent, None, ScriptedPolicy())
    traced = runner.play(twin, child, None, ScriptedPolicy())
    other = runner.play(replace(twin, twin=None), child, None, ScriptedPolicy())
    assert alone.answer == traced.answer != other.answer
    assert alone.trace is None and other.trace is None
    assert traced.trace is not None
    assert (dict(traced.trace.lines), traced.trace.knobs) == ({"agent.py": (3, 4, 6)}, ("n",))
    assert read(type(traced), write(traced)) == traced


def test_failing_harness_still_reports_its_trace(runner: RolloutRunner) -> None:
    child = harness("    x = 1\n    raise ValueError('boom')\n")
    task = Task.load(TOY)
    unit = Unit(task.digest, child.digest, ScriptedPolicy.digest, None, "train", "train-1", 3, twin="other")
    done = runner.play(unit, child, None, ScriptedPolicy())
    assert done.failure is not None and "boom" in done.failure.reason
    assert done.trace is not None and done.trace.lines["agent.py"] == (3, 4)

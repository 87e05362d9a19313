"""A rollout in the strict sandbox: its failures are attributed, and its record is complete."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.errors import SandboxError, TaskError
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read, write
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine import worker
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.scripted import ScriptedPolicy

TOY = Path(__file__).parents[1] / "toy"
TOML = 'name = "h"\n[budget]\ncalls = 3\nseconds = {seconds}\n[knobs.n]\nvalue = 2\nrange = [1, 4]\n'
Play = Callable[..., Rollout]


@pytest.fixture(scope="module")
def runner() -> Iterator[RolloutRunner]:
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    runner = RolloutRunner(Task.load(TOY), "strict")
    yield runner
    runner.close()


@pytest.fixture
def play(runner: RolloutRunner) -> Play:
    """Run a rollout of a harness given as the body of `solve`."""

    def run(body: str, seed: int = 0, before: str = "", seconds: int = 30) -> Rollout:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        source = f"{before}\nasync def solve(problem, ctx):\n{lines}\n"
        toml = TOML.format(seconds=seconds).encode()
        harness = Harness.from_files({"harness.toml": toml, "agent.py": source.encode(), "prompts/ask": b"Pick {x}:"})
        task = Task.load(TOY)
        unit = Unit(task.digest, harness.digest, ScriptedPolicy.digest, None, "train", "train-1", seed)
        return runner.run(unit, harness, None, ScriptedPolicy())

    return run


def test_rollout_is_recorded_whole(play: Play) -> None:
    done = play(
        'assert problem == {"number": 1, "id": "train-1"}, problem\n'
        'picked = await ctx.choose(ctx.prompt("ask", x="one"), ["blue", "green"])\n'
        "await ctx.note(f'{ctx.knobs} {ctx.budget}')\n"
        "return {'colour': picked}"
    )
    assert done.failure is None
    (turn,) = done.turns
    assert turn.prompt == "user: Pick one:"
    assert done.answer == {"colour": turn.output}
    assert done.score == {"blue": 1.0, "green": 0.3}[turn.output]
    assert done.notes[0].startswith("{'n': 2} {'calls': 2")


def test_rollout_repeats_under_the_same_seed(play: Play) -> None:
    body = "return {'colour': await ctx.choose('Pick', ['red', 'blue']), 'r': ctx.rng.random()}"
    assert [play(body, seed).answer for seed in range(6)] == [play(body, seed).answer for seed in range(6)]
    assert len({play(body, seed).answer["r"] for seed in range(6)}) == 6


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("raise ValueError('oops')", "error", "oops"),
        ("return undefined", "error", "undefined"),
        ("while True: pass", "timeout", ""),
        ("import asyncio; await asyncio.sleep(60)", "timeout", ""),
        ("for _ in range(9): await ctx.chat('again')", "budget", "no calls left"),
        ("x = bytearray(1 << 40)", "memory", ""),
        ("import os; os._exit(0)", "invalid", "without an answer"),
        ("return {'colour': float('nan')}", "error", "not JSON"),
    ],
)
def test_harness_error_scores_zero(play: Play, body: str, kind: str, words: str) -> None:
    done = play(body, seconds=2)
    assert done.failure is not None
    assert (done.failure.kind, done.score) == (kind, 0.0), done.failure
    assert words in done.failure.reason


def test_calls_may_be_awaited_together(play: Play) -> None:
    body = (
        "import asyncio\n"
        "asks = [ctx.choose(f'Pick {n}', ['red', 'blue']) for n in range(3)]\n"
        "return await asyncio.gather(*reversed(asks) if problem['number'] else asks)"
    )
    done = play(body)
    assert [turn.prompt for turn in done.turns] == [f"user: Pick {n}" for n in (2, 1, 0)]
    assert done.answer == [turn.output for turn in done.turns]
    assert play(body).answer == done.answer


def test_samples_are_replies_with_message_and_finish_reason(play: Play) -> None:
    done = play(
        "replies = await ctx.sample('Say', n=2)\n"
        "return [replies[0].message, replies[1].finish, replies[0] + '!', replies[0].tool_calls]"
    )
    first = done.turns[0].output
    assert done.answer == [{"role": "assistant", "content": first}, "stop", first + "!", []]
    assert len(done.turns) == 2


OPENAI = """
from openai import AsyncOpenAI, APIStatusError
import sia_sdk
client = AsyncOpenAI(base_url=sia_sdk.BASE_URL, api_key="-", http_client=ctx.http_client())
ask = {"model": "any", "messages": [{"role": "user", "content": "Say"}]}
one = await client.chat.completions.create(**ask)
parts = [chunk async for chunk in await client.chat.completions.create(stream=True, **ask)]
streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
models = [model.id async for model in await client.models.list()]
try:
    await client.chat.completions.create(n=9, **ask)
except APIStatusError as error:
    return [one.choices[0].message.content, streamed, models, error.status_code, error.body["message"]]
"""

ANTHROPIC = """
from anthropic import AsyncAnthropic
import sia_sdk
client = AsyncAnthropic(base_url="http://gateway", api_key="-", http_client=ctx.http_client())
ask = {"model": "any", "max_tokens": 9, "messages": [{"role": "user", "content": "Say"}]}
one = await client.messages.create(**ask)
async with client.messages.stream(**ask) as stream:
    streamed = await stream.get_final_text()
return [one.content[0].text, streamed]
"""


@pytest.mark.parametrize("body", [OPENAI, ANTHROPIC])
def test_client_libraries_can_be_pointed_at_the_gateway(runner: RolloutRunner, play: Play, body: str) -> None:
    runner._packages = ("anthropic", "openai")  # As if the task's first harness named them.
    runner._harness_sandboxes.clear()
    done = play(body)
    assert done.failure is None, (done.failure, done.notes)
    assert done.answer[:2] == [turn.output for turn in done.turns]
    assert done.answer[2:] in ([["policy"], 402, "1 calls left for this rollout, 9 asked for"], [])


def test_harness_that_does_not_load_scores_zero(play: Play) -> None:
    done = play("return {}", before="import no_such_module")
    assert done.failure is not None
    assert done.failure.kind == "error"
    assert "no_such_module" in done.failure.reason


def test_wrong_answer_is_an_invalid_verdict_not_a_failure(play: Play) -> None:
    done = play("return ['not', 'a', 'colour']")
    assert done.failure is None
    assert done.verdict is not None
    assert (done.verdict.valid, done.score) == (False, 0.0)


def test_programs_see_public_files_and_nothing_of_the_task(play: Play) -> None:
    program = "import os; print(sorted(os.listdir('.')), open('number.txt').read())"
    done = play(f"got = await ctx.run({program!r})\nreturn got")
    assert done.answer["stdout"] == "['main.py', 'number.txt'] 1\n"
    for path in (TOY / "task.py", Path(worker.__file__)):
        assert path.exists()
        look = play(f"got = await ctx.run({f'open({str(path)!r})'!r})\nreturn got")
        assert look.answer["status"] == "error"
        assert "FileNotFoundError" in look.answer["reason"]
        inside = play(f"open({str(path)!r})")
        assert inside.failure is not None
        assert "FileNotFoundError" in inside.failure.reason


def test_files_and_state_are_gone_in_the_next_rollout(play: Play) -> None:
    play("open('left', 'w').write('x'); import builtins; builtins.left = 1; return {}")
    done = play("import os, builtins; return [os.path.exists('left'), hasattr(builtins, 'left')]")
    assert done.answer == [False, False]


@pytest.mark.parametrize(
    ("error", "kind", "score"),
    [
        (RuntimeError("bug"), "unverified", 0.0),
        (RecursionError("deep"), "unverified", 0.0),
        (MemoryError(), "unverified", 0.0),
        (FileNotFoundError(2, "no such file", "answer"), "unverified", 0.0),
        (TaskError("verify(): score is nan"), "unverified", 0.0),
        (OSError(28, "No space left on device"), "verifier", None),
        (OSError(24, "Too many open files"), "verifier", None),
        (SandboxError("gone"), "sandbox", None),
    ],
    ids=repr,
)
def test_error_of_the_verifier_is_the_answers_and_one_of_the_machine_is_not(
    runner: RolloutRunner,
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: str,
    score: float | None,
) -> None:
    calls = []

    def verify(*arguments: Any) -> None:
        calls.append(arguments)
        raise error

    monkeypatch.setattr(worker, "RETRY", replace(worker.RETRY, first_s=0.01))
    monkeypatch.setattr(runner._task.module, "verify", verify)
    done = play("return {'colour': 'blue'}")
    assert done.failure is not None and done.failure.kind == kind
    assert done.score == score
    assert len(calls) == worker.RETRY.attempts


SHARING = """
from pathlib import Path
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem

def load(split):
    return [Problem("one", split)]

def shared():
    return Path(__file__).with_name("library")

def verify(problem, answer, lab, turns):
    return Verdict(float(len(turns)) / 4, metrics={"options": float(len(turns[0].options))}, feedback=turns[0].output)
"""


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[tuple[Task, RolloutRunner]]:
    """A task that shares a directory with all rollouts, and whose verifier reads the record."""
    tmp_path.chmod(0o755)  # In the sandbox the reader is another user.
    (tmp_path / "task.toml").write_text('name = "sharing"\ntitle = "t"\nmetric = "m"\n')
    (tmp_path / "task.py").write_text(SHARING)
    (tmp_path / "library").mkdir(mode=0o755)
    (tmp_path / "library" / "facts.txt").write_text("blue")
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    task = Task.load(tmp_path)
    runner = RolloutRunner(task, "strict")
    yield task, runner
    runner.close()


def _play(sharing: tuple[Task, RolloutRunner], body: str) -> Rollout:
    task, runner = sharing
    source = f"async def solve(problem, ctx):\n    {body}\n".encode()
    harness = Harness.from_files({"harness.toml": TOML.format(seconds=30).encode(), "agent.py": source})
    unit = Unit(task.digest, harness.digest, ScriptedPolicy.digest, None, "train", "one", 0)
    return runner.run(unit, harness, None, ScriptedPolicy())


def test_shared_directory_can_be_read_and_not_changed(sharing: tuple[Task, RolloutRunner]) -> None:
    done = _play(
        sharing,
        "import os; await ctx.choose('x', ['a', 'b']); "
        "return [(ctx.shared / 'facts.txt').read_text(), str(ctx.shared), os.listdir('/shared'), "
        "os.access('/shared/facts.txt', os.W_OK)]",
    )
    assert done.failure is None, done
    assert done.answer == ["blue", "/shared", ["facts.txt"], False]
    changed = _play(sharing, "(ctx.shared / 'facts.txt').write_text('red')")
    assert changed.failure is not None and "Errno" in changed.failure.reason
    assert (sharing[0].path / "library" / "facts.txt").read_text() == "blue"


def test_verifier_that_asks_for_the_record_reads_it(sharing: tuple[Task, RolloutRunner]) -> None:
    done = _play(sharing, "return [await ctx.choose('x', ['a', 'b', 'c']), await ctx.chat('y')]")
    assert done.verdict is not None
    assert (done.verdict.score, done.verdict.metrics["options"]) == (0.5, 3.0)
    assert done.verdict.feedback == done.answer[0]
    assert done.turns[0].options == ("a", "b", "c") and done.turns[1].options is None
    assert read(Rollout, write(done)) == done


def test_task_that_shares_nothing_has_no_shared_directory(play: Play) -> None:
    done = play("import os; return [ctx.shared.exists(), os.path.exists('/shared')]")
    assert done.answer == [False, False]

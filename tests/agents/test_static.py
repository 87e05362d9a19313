"""The static rung rejects rewrites by reading them, and accepts sound ones."""

from dataclasses import asdict

import pytest

from sia_core.agents import static
from sia_core.agents.static import Allowed, Rejected
from sia_core.domain import json_data
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import RungResult
from sia_core.domain.task import Task
from sia_core.domain.task_config import RewriteLimits
from tests.factories import TOY

TOML = 'name = "h"\n[budget]\ncalls = 4\n[knobs.n]\nvalue = 1\nrange = [1, 4]\nhelp = "how many"\n'
AGENT = "import helper\n\n\nasync def solve(problem, ctx):\n    return helper.ask(ctx)\n"
FILES = {"harness.toml": TOML, "agent.py": AGENT, "helper.py": "def ask(ctx):\n    return 1\n", "prompts/ask": "Pick:"}


def harness(**files: str | bytes) -> Harness:
    named = {
        name.replace("__", "/").replace("_toml", ".toml").replace("_py", ".py"): text for name, text in files.items()
    }
    return Harness.from_files(
        {name: text if isinstance(text, bytes) else text.encode() for name, text in {**FILES, **named}.items()}
    )


PARENT = harness()
ALLOWED = Allowed.of(PARENT.config, RewriteLimits(modules=("numpy",)))


def read(child: Harness, rejected: tuple[Rejected, ...] = ()) -> RungResult:
    return static.check(child, PARENT, ALLOWED, answers=["the very long answer of problem 7"], rejected=rejected)


@pytest.mark.parametrize(
    "files",
    [
        {"helper_py": "def ask(ctx):\n    return 2\n"},
        {"prompts__ask": "Pick one:"},
        {"harness_toml": TOML.replace("value = 1", "value = 2")},
        {"harness_toml": TOML.replace("calls = 4", "calls = 8")},
        {
            "harness_toml": TOML.replace("[budget]", 'modules = ["numpy"]\n[budget]'),
            "helper_py": "import numpy\nask = 1",
        },
        {"helper_py": "from openai import AsyncOpenAI\nimport sia_sdk, json\nask = 1\n"},
        {"program_py": "import torch  # handed to ctx.run as text\n"},
        {"agent_py": "from helper import ask as solve\n"},
    ],
)
def test_sound_rewrites_pass(files: dict[str, str]) -> None:
    assert read(harness(**files)).passed, read(harness(**files))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"harness_toml": TOML.replace("calls = 4", "calls = 9")}, "budget.calls is 9, at most 8"),
        ({"harness_toml": TOML.replace("[budget]", 'modules = ["scipy"]\n[budget]')}, "widened by scipy"),
        ({"harness_toml": TOML.replace("[budget]", 'needs = ["subprocesses"]\n[budget]')}, "widened by subprocesses"),
        ({"helper_py": "def ask(ctx)\n    return 1\n"}, "helper.py:1: expected ':'"),
        ({"helper_py": b"x = '\xff'\n"}, "helper.py is not UTF-8: byte 5"),
        ({"prompts__ask": b"\xff"}, "prompts/ask is not UTF-8"),
        ({"helper_py": "x = 1\0"}, "null bytes"),
        ({"helper_py": "x = " + "-" * 100_000 + "1"}, "helper.py: nested too deeply"),
        ({"helper_py": "x = 1" + "+1" * 100_000}, "helper.py: nested too deeply"),
        ({"helper_py": "await ask()\n"}, "helper.py:1: 'await' outside function"),
        ({"agent_py": "x = 1\n"}, "agent.py has no async def solve"),
        ({"agent_py": "def solve(problem, ctx): ...\n"}, "agent.py:1: solve is not async"),
        ({"agent_py": "async def solve(problem): ...\n"}, "agent.py:1: solve cannot be called"),
        ({"agent_py": "async def solve(a, b, *, c): ...\n"}, "agent.py:1: solve cannot be called"),
        ({"helper_py": "import json\ndef ask(ctx):\n    import torch\n"}, "helper.py:3: imports torch"),
        (
            {"helper_py": "ANSWER = 'the very long answer of problem 7'\n"},
            "helper.py holds a text of a problem's private",
        ),
        ({}, "no-op: the files are the same"),
        ({"agent_py": AGENT + "# a remark\n\n"}, "no-op: only comments"),
        ({"harness_toml": TOML.replace("how many", "number") + "\n# more\n"}, "no-op: only comments"),
    ],
)
def test_rejected_harness_states_the_reason(files: dict[str, str], words: str) -> None:
    found = read(harness(**files))
    assert not found.passed
    assert words in found.reason, found.reason
    assert "the very long" not in found.reason


def test_only_the_same_behaviour_as_a_rejected_rewrite_is_a_repetition() -> None:
    long = "def ask(ctx):\n" + "".join(f"    x{n} = ctx.{n * 'y'}y\n" for n in range(60)) + "    return x1\n"
    earlier = Rejected("node 3", harness(helper_py=long), "minibatch: futile")
    same = read(harness(helper_py=long + "# again\n"), (earlier,))
    assert "the same harness as node 3, rejected there: minibatch: futile" in same.reason
    assert read(harness(helper_py=long.replace("return x1", "return x2")), (earlier,)).passed, "it may be a repair"


@pytest.mark.parametrize("where", [TOY, "denoising"])
def test_seed_harnesses_pass(where: str) -> None:
    task = Task.load(where)
    seed = Harness.load(task.path / task.config.harness)
    found = static.check(seed, None, Allowed.of(seed.config, task.config.rewrite))
    assert found.passed, found
    assert json_data.read(RungResult, asdict(found)) == found

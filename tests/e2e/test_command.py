"""Whole runs that a coding tool steers, from its jail."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.coder.tool import GOOD
from tests.e2e.conftest import TOY, Sia
from tests.toy.task import CANARY

TOOL = Path(__file__).parents[1] / "coder" / "tool.py"
KEY = "sk-secret-51ab77aa"


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """The tool, where a person would have it."""
    (tmp_path / "tools").mkdir()
    return Path(shutil.copy(TOOL, tmp_path / "tools"))


@pytest.mark.slow
@pytest.mark.usefixtures("bwrap")
def test_run_is_steered_by_a_coding_tool(sia: Sia, tiny_model: Path, tool: Path) -> None:
    mine = replace(sia, environment={**sia.environment, "CODER_KEY": KEY})
    output = mine(
        *("run", str(TOY), "--agent", f"command:{tool} {{prompt}}", "--agent-env", "CODER_KEY"),
        *("--policy", f"local:{tiny_model}", "--generations", "2", "--rollouts", "4", "--no-ui", "--threads", "1"),
        timeout=500,
    )
    assert "finished" in output
    run = sia.run()
    seed, wider, stopped = run.nodes()
    assert wider.promoted and wider.lever == "harness"
    assert run.harness(wider.candidate.harness).files["agent.py"] == GOOD.encode()
    assert wider.decision is not None and wider.decision.agent == f"command:{tool} {{prompt}}"
    assert wider.decision.cites
    assert stopped.lever == "stop"
    first, second = (json.loads(one.get_bytes("agent/conversation.json") or b"") for one in run.generations())
    assert [one["code"] for one in first["rounds"]] == [0, 0]
    assert "expected ':'" in first["not_taken"][0]
    assert first["usage"]["dollars"] is None and second["usage"]["requests"] == 1
    drafts = run.generations()[0].get_json("drafts.json")
    assert drafts is not None and len(drafts["drafts"]) >= 2
    _nothing_leaks(sia)
    assert seed.promoted


def _nothing_leaks(sia: Sia) -> None:
    """The key is kept nowhere, and what the command left is removed, canaries were nowhere in it."""
    for file in sia.home.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    left = {file.name for file in sia.home.glob("runs/*/command/*/*")}
    assert left == {"log.jsonl"}
    for log in sia.home.glob("runs/*/command/*/log.jsonl"):
        assert CANARY not in log.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("bwrap")
def test_coding_tool_writes_the_first_harness(sia: Sia, tool: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(TOY, tmp_path / "task", ignore=shutil.ignore_patterns("harness", "__pycache__"))
    options = ("--policy", "scripted", "--generations", "1", "--rollouts", "2", "--levers", "", "--no-ui")
    sia("run", str(bare), "--agent", f"command:{tool}", *options, timeout=300)
    run = sia.run()
    assert run.harness(run.nodes()[0].candidate.harness).files["agent.py"] == GOOD.encode()
    record = run.get_json("agent/conversation.json")
    assert record is not None and record["trials"] == 1 and len(record["rounds"]) == 2


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--agent", "command:no-such-tool -p"], 2, "program 'no-such-tool' not found"),
        (["--agent", "command:"], 2, "no command is named"),
        (["--agent", "command:'sh"], 2, "cannot be read"),
        (["--agent", "command:sh", "--agent-env", "NO_SUCH_KEY"], 2, "NO_SUCH_KEY is not set"),
        (["--agent", "command:sh", "--agent-files", "~/.no-such-file"], 2, "is not there"),
        (["--agent", "command:sh", "--agent-files", "/etc/passwd"], 2, "does not lie below"),
        (["--agent", "command:sh", "--agent-mounts", "/"], 2, "holds too much"),
        (["--agent", "command:sh", "--agent-mounts", "/usr/no-such"], 2, "does not exist"),
        (["--agent", "command:sh", "--agent-mounts", str(TOY)], 2, "which agents must not see"),
        (["--agent", "command:sh", "--agent-network", "http://x"], 2, "names no host"),
        (["--agent", "command:sh", "--agent-dollars", "1"], 2, "the cost of a command is unknown"),
        (["--agent", "command:sh", "--budget", "dollars=1"], 2, "the cost of a command is unknown"),
        (["--agent-network", "*"], 2, "belongs to an agent that is a command"),
    ],
)
@pytest.mark.usefixtures("bwrap")
def test_command_that_cannot_work_is_refused_before_anything_is_spent(
    sia: Sia, options: list[str], code: int, says: str
) -> None:
    found, output = sia.fails("run", str(TOY), "--policy", "scripted", "--no-ui", *options)
    assert found == code and says in output, output
    assert not list(sia.home.glob("runs/*"))

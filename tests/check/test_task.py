"""A sound task passes every check, and each defect fails the check that looks for it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sia_core.check import task as checks
from sia_core.check.answers import MISSING, as_text, hostile_answers, leaf_texts, leaves
from sia_core.check.harness import check_harness
from sia_core.check.problems import check_splits
from sia_core.check.report import Finding, Report
from sia_core.check.task import check_task
from sia_core.domain.errors import FetchError, SandboxError, TaskError
from sia_core.domain.json_data import dumps
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Task
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from tests.factories import TOY

CHECKS = [
    *("load", "splits", "repeats", "private", "harness", "gold"),
    *("chance", "hostile", "verdicts", "range", "feedback"),
]


@pytest.fixture
def no_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the rungs of the harness, which take a second, for defects in other files."""
    passed = Finding("harness", "passed", "not looked at")
    monkeypatch.setattr(checks, "check_harness", lambda _task, _tier: passed)


def broken(folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of the toy task in which a text is replaced."""
    copy = folder / "task"
    shutil.copytree(TOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return copy


def checked(path: Path | str) -> Report:
    """All findings, without a sandbox: the toy verifier runs no programs."""
    told: list[Finding] = []
    report = check_task(Task.load(path), tier="none", problems=2, tell=told.append, progress=lambda *_: None)
    assert tuple(told) == report.findings
    return report


def failed(report: Report) -> dict[str, str]:
    return {finding.check: finding.seen for finding in report.failed}


@pytest.mark.usefixtures("no_harness")
def test_sound_task_passes_every_check() -> None:
    report = checked(TOY)
    assert [finding.check for finding in report.findings] == CHECKS
    assert {finding.status for finding in report.findings} == {"passed"}, report.findings
    assert json.loads(dumps(report))["sound"]


_JUDGE = "    return Verdict(problem.private"
_PRIVATE = 'private = {"worth": WORTH, "canary": CANARY}'
_REMEMBERING = """    seen = SEEN.setdefault((problem.id, colour), len(FORGOTTEN))
    if colour == "blue":
        return Verdict(0.99 - 0.1 * seen)
"""
_FORGETTING = """SEEN, FORGOTTEN = {}, []


def forget():
    SEEN.clear()
    FORGOTTEN.append(1)


def verify("""
BROKEN = {
    "load raises": ("load", "task.py", "    private = {", "    1 / 0\n    private = {", "ZeroDivisionError"),
    "no problems": ("load", "task.py", '"train": 12', '"train": 0', "0 problems"),
    "one id twice": ("load", "task.py", 'f"{split}-{number}"', 'f"{split}"', "12 problems with 1 ids"),
    "a canary that is a word": ("load", "task.py", '"toy-canary-b1f04e7a92c6d358"', '"colour"', "canary is 16 to 128"),
    "an id in two splits": (
        "splits",
        "task.py",
        'f"{split}-{number}"',
        'f"{number}"',
        "id '0' is in train and in gate",
    ),
    "a problem in two splits": ("splits", "task.py", '"gate": 100', '"gate": 5', "shows the same as train-5 of train"),
    "another order each time": (
        *(
            "repeats",
            "task.py",
            "    private = {",
            "    import os, random\n    random.seed(os.urandom(8))\n    private = {",
        ),
        "contents of",
    ),
    "an order that depends on the hash seed": (
        *("repeats", "task.py", '{"number": shown}', '{"number": shown, "of": list({"ab", "cd", "ef", "gh", "ij"})}'),
        "another process differs",
    ),
    "a canary in public data": ("private", "task.py", '{"number": shown}', '{"number": shown, "x": CANARY}', "canary"),
    "a canary in a file": ("private", "task.py", "str(shown).encode()", "(CANARY + str(shown)).encode()", "canary"),
    "an answer in public data": (
        *("private", "task.py", _PRIVATE, 'private = {"worth": WORTH, "why": "the sky is best seen when it is blue"}'),
        "",
    ),
    "gold is invalid": ("gold", "task.py", 'return {"colour": "blue"}', 'return {"colour": "mauve"}', "invalid"),
    "gold is worth too little": ("gold", "task.toml", "[plan]", "[check]\ngold = 2.0\n\n[plan]", "at least 2"),
    "gold raises": (
        "gold",
        "task.py",
        _JUDGE,
        "    if colour == 'blue':\n        1 / 0\n" + _JUDGE,
        "ZeroDivisionError",
    ),
    "nothing is worth something": (
        *("chance", "task.py", "Verdict(0.0, valid=False", "Verdict(0.4 * (answer is None), valid=False"),
        "null scores 0.4",
    ),
    "a bait is worth something": ("chance", "task.py", '{"colour": "red"}', '{"colour": "green"}', "bait"),
    "copying pays": (
        *(
            "chance",
            "task.py",
            "    colour = answer",
            "    if answer == problem.public:\n        return Verdict(1.0)\n    colour = answer",
        ),
        "copied public data scores 1",
    ),
    "NaN is valid": (
        *(
            "hostile",
            "task.py",
            "    colour = answer",
            "    if answer != answer:\n        return Verdict(0.0)\n    colour = answer",
        ),
        "NaN (train-0): valid",
    ),
    "a list is let through": (
        *("hostile", "task.py", "if not isinstance(colour, str) or", "if"),
        "unhashable",
    ),
    "duplicates are let through": (
        *(
            "hostile",
            "task.py",
            "    colour = answer",
            "    answer = answer[0] if isinstance(answer, list) and answer else answer\n    colour = answer",
        ),
        "gold twice",
    ),
    "size is let through": (
        *(
            "hostile",
            "task.py",
            "    colour = answer",
            "    if isinstance(answer, str) and len(answer) > 9999:\n        return Verdict(0.0)\n    colour = answer",
        ),
        "1 MB of text",
    ),
    "verdicts drift": (
        *("verdicts", "task.py", _JUDGE, "    problem.private['worth']['blue'] -= 0.01\n" + _JUDGE),
        "score 0.99, then",
    ),
    "remembered verdicts drift": (
        *("verdicts", "task.py", _JUDGE, _REMEMBERING + _JUDGE),
        "score 0.99, then",
    ),
    "a score out of range": (
        *("range", "task.py", "Verdict(0.0, valid=False", "Verdict(-float(answer == {}), valid=False"),
        "empty object (train-0)",
    ),
    "feedback gives the answer away": ("feedback", "task.py", "is not a colour", "is not blue", "'blue'"),
}


@pytest.mark.usefixtures("no_harness")
@pytest.mark.parametrize("name", BROKEN)
def test_every_defect_fails_its_own_check_alone(tmp_path: Path, name: str) -> None:
    check, file, old, new, words = BROKEN[name]
    path = broken(tmp_path, file, old, new)
    if name == "remembered verdicts drift":
        text = (path / "task.py").read_text()
        (path / "task.py").write_text(text.replace("def verify(", _FORGETTING))
    if name == "an answer in public data":
        text = (path / "task.py").read_text()
        text = text.replace('{"number": shown}', '{"number": shown, "x": "the sky is best seen when it is blue!"}')
        (path / "task.py").write_text(text)
    if name == "another order each time":
        text = (path / "task.py").read_text()
        (path / "task.py").write_text(text.replace('{"number": shown}', '{"number": shown, "x": random.random()}'))
    found = failed(checked(path))
    assert list(found) == [check], found
    assert words in found[check]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("harness/harness.toml", 'entry = "agent.py"', 'entry = "gone.py"', "gone.py"),
        (
            "harness/agent.py",
            "def solve(problem, ctx)",
            "def solve(problem)",
            "cannot be called as solve(problem, ctx)",
        ),
        ("harness/agent.py", "MENUS =", "import nowhere\nMENUS =", "rung static: agent.py:1: imports nowhere"),
        ("harness/agent.py", "MENUS =", "1 / 0\nMENUS =", "rung import: agent.py:1: ZeroDivisionError"),
        ("harness/agent.py", "    await ctx.note", "    1 / 0\n    await ctx.note", "rung contract: crash on plain"),
        ("task.py", _JUDGE, "    raise KeyError(colour)\n" + _JUDGE, "got no verdict"),
    ],
)
def test_seed_harness_that_does_not_work_is_found(tmp_path: Path, file: str, old: str, new: str, words: str) -> None:
    found = check_harness(Task.load(broken(tmp_path, file, old, new)), "none")
    assert found.status == "failed" and words in found.seen, found


def test_without_gold_most_is_still_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_harness", lambda _task, _tier: Finding("harness", "passed", ""))
    report = checked(broken(tmp_path, "task.py", "def gold(", "def silver("))
    status = {finding.check: finding.status for finding in report.findings}
    assert not report.failed
    assert {name for name, what in status.items() if what == "skipped"} == {"gold", "feedback"}


@pytest.mark.parametrize(("private", "faults"), [('{"worth": WORTH, "of": shown}', 0), ('{"worth": WORTH}', 47 - 11)])
def test_problems_with_equal_public_data_need_different_private_data(tmp_path: Path, private: str, faults: int) -> None:
    path = broken(tmp_path, "task.py", '{"number": shown}', "{}")
    text = (path / "task.py").read_text()
    text = text.replace('{"number.txt": str(shown).encode()}', "{}").replace("private=private", f"private={private}")
    (path / "task.py").write_text(text)
    found = check_splits(Task.load(path))
    assert found.status == ("failed" if faults else "passed"), found
    assert not faults or f"(and {faults - 3} more)" in found.seen


@pytest.mark.usefixtures("no_harness")
def test_verifier_that_reads_the_record_receives_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken(tmp_path, "task.py", "def gold(", "def record(answer):\n    return ['said']\n\n\ndef gold(")
    plain, seen = Task.verify, []

    def verify(self: Task, problem: Any, answer: Any, lab: Any, turns: Any = ()) -> Verdict:
        seen.append(turns)
        return plain(self, problem, answer, lab)

    monkeypatch.setattr(Task, "verify", verify)
    assert not checked(path).failed
    assert seen and all(turns == ["said"] for turns in seen)


def test_data_that_cannot_be_fetched_are_no_verdict_on_the_task(tmp_path: Path) -> None:
    path = broken(
        tmp_path,
        "task.py",
        "def gold(",
        "from sia_core.domain.errors import FetchError\n"
        "def prepare(progress):\n    raise FetchError('no network')\n"
        "def gold(",
    )
    with pytest.raises(FetchError):
        checked(path)


def test_sandbox_failure_is_no_verdict_on_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_harness", lambda _task, _tier: Finding("harness", "passed", ""))
    path = broken(
        tmp_path,
        "task.py",
        _JUDGE,
        "    from sia_core.domain.errors import SandboxError\n    raise SandboxError('gone')\n" + _JUDGE,
    )
    with pytest.raises(SandboxError, match="gone"):
        checked(path)


def test_record_is_corrupted_leaf_by_leaf_and_table_entry_by_entry() -> None:
    gold = {"a": 1.5, "b": ["x", "y"]}
    names = {made.name for made in hostile_answers(gold)}
    assert {"['a'] is NaN", "['a'] is missing", "['b'] has every entry twice", "['b'] lacks its last entry"} <= names
    assert list(leaves(gold)) == [("a",), ("b", 0), ("b", 1)]
    assert gold == {"a": 1.5, "b": ["x", "y"]}
    table = {str(number): "label" for number in range(20)}
    assert not any(made.strict for made in hostile_answers(table) if made.name.startswith("['0']"))
    assert all(made.strict for made in hostile_answers(MISSING))


def test_gold_texts_are_searched_as_feedback_would_show_them() -> None:
    assert leaf_texts({"a": "theft", "b": 12.75, "c": 3, "d": True}) == ["12.75", "theft"]
    assert "NaN" in as_text([float("nan")])


def test_check_command_prints_every_check_and_exits_with_code_3(tmp_path: Path) -> None:
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    path = broken(tmp_path, "task.py", "is not a colour", "is not blue")
    command = [sys.executable, "-m", "sia_core.cli.main", "check", str(path), "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == TaskError.exit_code, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[1] for line in lines] == CHECKS
    assert [line.split()[1] for line in lines if line.startswith("FAILED")] == ["feedback"]
    assert "unsound: feedback" in done.stderr and "Traceback" not in done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["sound"] and len(found["findings"]) == len(CHECKS)

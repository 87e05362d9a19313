"""Tasks of other systems are imported, sound, scored by their own graders and safe from cheats."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sia_core.check.task import check_task, measure_gold
from sia_core.domain.errors import TaskError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import SPLITS, Rollout, Unit, Verdict
from sia_core.domain.task import Task
from sia_core.engine.worker import RolloutRunner, SandboxLab
from sia_core.importers.find import Pair, Predictions, find
from sia_core.importers.table import Table, deal
from sia_core.importers.write import Options, declare_first, write_task
from tests.agents.models import Script, says
from tests.importers import sources

PREDICT = """
import csv
names = {"no": "north", "so": "south", "ea": "east", "we": "west"}
with open("test.csv", newline="") as cases, open("submission.csv", "w") as out:
    out.write("id,label\\n")
    for row in csv.DictReader(cases):
        out.write(f"{row['id']},{names[row['text'].split()[-1]]}\\n")
"""


Make = Callable[..., Task]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Import a small task."""

    def imported(kind: str, **options: Any) -> Task:
        source = getattr(sources, kind)(tmp_path / "source")
        task = Task.load(write_task(find([source]), tmp_path / f"my-{kind}", Options(**options)))
        if kind == "openevolve":
            declare_first(task.path, measure_gold(task, "strict").score)
        return Task.load(task.path)

    return imported


def verify(task: Task, answer: Any, lab: SandboxLab, number: int = 0) -> Verdict:
    return task.verify(task.problems("train")[number], answer, lab)


@pytest.mark.slow  # each has many verdicts, each of a process of its own
@pytest.mark.parametrize(
    ("kind", "options"), [("sia_agent", {}), ("mlebench", {"lower_is_better": True}), ("openevolve", {})]
)
def test_imported_task_is_sound(make: Make, kind: str, options: dict[str, Any], lab: SandboxLab) -> None:
    task = make(kind, **options)
    report = check_task(task, tier="strict", problems=2, tell=lambda _: None, progress=lambda *_: None)
    assert not report.failed, report.failed
    assert {finding.check for finding in report.findings if finding.status == "skipped"} == set()


def test_rows_are_dealt_out_and_private_ones_stay_private(make: Make) -> None:
    task = make("sia_agent", problems=3)
    problems = [problem for split in SPLITS for problem in task.problems(split)]
    ids = [one for problem in problems for one in problem.private]
    assert sorted(ids, key=int) == [str(n) for n in range(sources.CASES)]
    for problem in problems:
        assert set(problem.files) == {"task.md", "test.csv", "sample_submission.csv", "train.csv"}
        shown = Table.read("test.csv", problem.files["test.csv"])
        assert shown is not None and set(shown.ids("id")) == set(problem.private)
        assert problem.public["rows"] == len(problem.private) == sources.CASES // 9 + (len(problem.private) > 6)
        assert b"label" not in problem.files["test.csv"]


def test_submission_and_program_score_as_the_grader_says(make: Make, lab: SandboxLab) -> None:
    task = make("sia_agent")
    problem = task.problems("train")[0]
    assert verify(task, task.module.gold(problem), lab).score == 1.0
    by_program = verify(task, {"code": PREDICT}, lab)
    assert (by_program.score, by_program.metrics) == (1.0, {"accuracy": 1.0, "n": 5.0})
    rows = task.module.gold(problem)["submission"].splitlines()
    wrong = "\n".join([rows[0], *(f"{row.split(',')[0]},nowhere" for row in rows[1:3]), *rows[3:]])
    assert verify(task, {"submission": wrong}, lab).score == pytest.approx(3 / 5)


def test_lower_score_of_the_grader_may_be_better(make: Make, lab: SandboxLab) -> None:
    task = make("mlebench", lower_is_better=True)
    gold = task.module.gold(task.problems("train")[0])
    assert verify(task, gold, lab).score == 1.0
    rows = gold["submission"].splitlines()
    off = "\n".join([rows[0], *(f"{one},{float(price) + 3}" for one, price in (row.split(",") for row in rows[1:]))])
    found = verify(task, {"submission": off}, lab)
    assert found.metrics["score"] == pytest.approx(3.0) and found.score == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"submission": "id,price\nh000,1\n"}, "1 rows, which are not the 5 rows"),
        ({"submission": "id,cost\nh000,1\n"}, "lacks the columns ['price']"),
        ({"submission": "garbage \x00 \x01"}, "no table"),
        ({"submission": ""}, "0 bytes"),
        ({"submission": "x", "code": "y"}, "the answer has to be"),
        ({"code": "print('nothing')"}, "left no submission.csv"),
        ({"code": "1 / 0"}, "ZeroDivisionError"),
        ({"code": "import os; os.symlink('/etc/passwd', 'submission.csv')"}, "left no submission.csv"),
        ({"code": "while True: pass"}, "timeout"),
    ],
)
def test_invalid_submissions_are_refused(make: Make, lab: SandboxLab, answer: Any, words: str) -> None:
    found = verify(make("mlebench", lower_is_better=True, seconds=3.0), answer, lab)
    assert (found.score, found.valid) == (0.0, False)
    assert words in found.feedback, found.feedback


def test_rows_have_to_be_those_of_the_problem_once_each(make: Make, lab: SandboxLab) -> None:
    task = make("sia_agent")
    head, *rows = task.module.gold(task.problems("train")[0])["submission"].splitlines()
    other = task.module.gold(task.problems("gate")[0])["submission"]
    for lines in ([*rows, rows[0]], [*rows[1:], rows[1]], rows[1:], other.splitlines()[1:]):
        found = verify(task, {"submission": "\n".join([head, *lines])}, lab)
        assert not found.valid and "rows of the problem, once each" in found.feedback
    assert verify(task, {"submission": "\n".join([head, *rows[::-1]])}, lab).score == 1.0


def test_submission_with_infinite_values_is_refused_by_the_grader(make: Make, lab: SandboxLab) -> None:
    task = make("mlebench", lower_is_better=True)
    head, first, *rows = task.module.gold(task.problems("train")[0])["submission"].splitlines()
    spoilt = "\n".join([head, first.split(",")[0] + ",inf", *rows])
    found = verify(task, {"submission": spoilt}, lab)
    assert not found.valid and "prices have to be finite numbers" in found.feedback


def test_program_cannot_reach_answers_or_grader(make: Make, lab: SandboxLab) -> None:
    task = make("sia_agent")
    code = (
        f"import os\nfound = [name for _, _, names in os.walk('.') for name in names]\n"
        f"assert 'evaluate.py' not in found, found\n"
        f"assert not os.path.exists({str(task.path)!r})\n"
    )
    assert (
        "left no submission.csv" in verify(task, {"code": code + PREDICT.replace("submission", "other")}, lab).feedback
    )
    assert verify(task, {"code": code + PREDICT}, lab).score == 1.0


def with_grader(task: Task, old: str, new: str) -> Task:
    file = task.path / "original" / "grade.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return Task.load(task.path)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("import time; time.sleep(60)", "did not end within 2 s"),
        ("x = bytearray(3 << 30)", "the grader failed: MemoryError"),
        ("import os; os._exit(7)", "exit code 7"),
        ("raise KeyError('secret')", "the grader failed: KeyError"),
        ("import os; assert 'ANTHROPIC_API_KEY' not in os.environ, 'a key!'; return float('nan')", "the metric is nan"),
        ("return float('inf')", "the metric is inf"),
    ],
)
def test_grader_is_held_to_limits_and_sees_no_key(
    make: Make, lab: SandboxLab, monkeypatch: pytest.MonkeyPatch, new: str, words: str
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    seconds = 2.0 if "sleep" in new else 60.0
    task = with_grader(make("mlebench", seconds=seconds, memory_mb=1500), '    """Root', f'    {new}\n    """Root')
    started = time.monotonic()
    found = verify(task, task.module.gold(task.problems("train")[0]), lab)
    assert words in found.feedback and not found.valid, found.feedback
    assert "sleep" not in new or time.monotonic() - started < 20


def test_processes_of_a_grader_end_with_it(make: Make, lab: SandboxLab, tmp_path: Path) -> None:
    file = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(file)!r}).touch()"
    new = f"    import subprocess, sys\n    subprocess.Popen([sys.executable, '-c', {child!r}])\n"
    task = with_grader(make("mlebench"), '    """Root', new + '    """Root')
    assert verify(task, task.module.gold(task.problems("train")[0]), lab).valid
    time.sleep(2.5)
    assert not file.exists()


def test_unknown_metric_names_the_known_ones(make: Make, lab: SandboxLab) -> None:
    task = make("sia_agent", metric="f1")
    with pytest.raises(TaskError, match="no metric 'f1'") as caught:
        verify(task, task.module.gold(task.problems("train")[0]), lab)
    assert "accuracy, n" in caught.value.hint


def test_initial_program_that_fails_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PROGRAM", "1 / 0")
    with pytest.raises(TaskError, match="ZeroDivisionError"):
        make("openevolve")


def test_evaluator_judges_programs_in_the_sandbox(make: Make, lab: SandboxLab) -> None:
    task = make("openevolve")
    first, better = verify(task, {"code": sources.PROGRAM}, lab), verify(task, {"code": sources.BETTER}, lab)
    assert first.score == pytest.approx(10 * 0.5 / 11)
    assert better.score == pytest.approx(1.0) and better.metrics["valid"] == 1.0
    assert verify(task, {"code": "import os\nprint(open('/etc/passwd').read())"}, lab).valid is False
    assert "AttributeError" in verify(task, {"code": "x = 1"}, lab).feedback


@pytest.mark.parametrize(
    "code",
    [
        "import json, os\njson.dump({'metrics': {'combined_score': 1.0}}, open('_result.json', 'w'))\nos._exit(0)",
        "import os\nopen('_result.json', 'w').write('{\"number\": 1, \"metrics\": {\"valid\": 1}}')\nos._exit(0)",
        "import json, os\nn = open('_number').read()\n",
        "import os\nopen('_result.json', 'w').write('[' * 100000)\nos._exit(0)",
        "import os\nos._exit(0)",
    ],
)
def test_program_that_writes_its_own_result_is_refused(make: Make, lab: SandboxLab, code: str) -> None:
    found = verify(make("openevolve"), {"code": code}, lab)
    assert (found.score, found.valid) == (0.0, False), found


def test_mean_of_all_metrics_replaces_a_missing_combined_score(make: Make, lab: SandboxLab) -> None:
    task = make("openevolve")
    file = task.path / "original" / "evaluator.py"
    file.write_text("def evaluate(path):\n    return {'a': 0.25, 'b': 0.75, 'name': 'x'}\n")
    assert verify(Task.load(task.path), {"code": "x = 1"}, lab).score == 0.5


def test_scores_beyond_the_range_are_clipped_and_kept_in_metrics(make: Make, lab: SandboxLab) -> None:
    found = verify(make("openevolve", high=0.5), {"code": sources.BETTER}, lab)
    assert found.score == 0.5 and found.metrics["combined_score"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "replies", "score"),
    [
        ("openevolve", ["hm", "```python\n1/0\n```", f"```python\n{sources.BETTER}```"], 1.0),
        ("sia_agent", ["```python\nprint(1)\n```", f"```python\n{PREDICT}```"], 1.0),
    ],
)
def test_imported_harness_tries_and_fixes_its_program(
    make: Make, lab: SandboxLab, kind: str, replies: list[str], score: float
) -> None:
    task = make(kind)
    harness = Harness.load(task.path / "harness")
    script = Script([says(reply) for reply in replies])
    runner = RolloutRunner(task, "strict")
    problem = task.problems("train")[1].id
    unit = Unit(task.digest, harness.digest, "script", None, "train", problem, 0, task.sampling)
    done: Rollout = runner.run(unit, harness, None, script)
    runner.close()
    assert done.failure is None and done.score == pytest.approx(score), (done.failure, done.notes)
    told = [str(request.messages[-1]["content"]) for request in script.requests]
    assert "no ``` block" in told[1] or "left no submission.csv" in told[1]


def test_kinds_of_sources_are_recognised(tmp_path: Path) -> None:
    one = find([sources.sia_agent(tmp_path / "a")])
    two = find([sources.mlebench(tmp_path / "b")])
    assert isinstance(one, Predictions) and isinstance(two, Predictions)
    assert (one.kind, one.id, one.columns, one.submission) == ("sia-agent", "id", ("id", "label"), "submission.csv")
    assert (two.kind, two.grader.name, set(two.split)) == (
        "mlebench",
        "grade.py",
        {"test.csv", "sample_submission.csv"},
    )
    folder = sources.openevolve(tmp_path / "c")
    assert find([folder]) == find([folder / "evaluator.py", folder / "initial_program.py"])
    assert isinstance(find([folder]), Pair)
    moved = (tmp_path / "b" / "grade.py").rename(tmp_path / "elsewhere.py")
    with pytest.raises(UsageError, match=r"no evaluate.py and no grade.py"):
        find([tmp_path / "b"])
    assert isinstance(found := find([tmp_path / "b"], grader=moved), Predictions) and found.kind == "mlebench"


@pytest.mark.parametrize("names", [["nothing"], ["a.py"], ["a.py", "b.py"], ["folder"]])
def test_unknown_source_is_refused(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1")
    with pytest.raises(UsageError):
        find([tmp_path / name for name in names])


def test_rows_are_dealt_the_same_way_in_any_order() -> None:
    ids = [str(n) for n in range(30)]
    parts = deal(ids, 6, "name")
    assert sorted(map(len, parts)) == [5] * 6 and {one for part in parts for one in part} == set(ids)
    assert deal(ids[::-1], 6, "name") == parts != deal(ids, 6, "other")
    with pytest.raises(TaskError, match="repeat"):
        deal([*ids, "3"], 6, "name")
    with pytest.raises(TaskError, match="30 rows cannot make 16 problems"):
        deal(ids, 16, "name")


def test_failed_import_leaves_no_files(tmp_path: Path) -> None:
    source = find([sources.sia_agent(tmp_path / "source")])
    with pytest.raises(TaskError):
        write_task(source, tmp_path / "to", Options(problems=40))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    write_task(source, tmp_path / "to", Options())
    with pytest.raises(UsageError, match="already exists"):
        write_task(source, tmp_path / "to", Options())


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("sia_agent", "data/public/more.csv"),
        ("sia_agent", "data/private/more.csv"),
        ("sia_agent", "data/public/sub/x"),
        ("sia_agent", "data/public"),
        ("mlebench", "grade.py"),
        ("mlebench", "prepared/private/a/b"),
        ("mlebench", "prepared/public/description.md"),
        ("openevolve", "evaluator.py"),
        ("openevolve", "initial_program.py"),
        ("openevolve", "points.json"),
    ],
)
def test_link_out_of_the_directory_is_refused(tmp_path: Path, kind: str, place: str) -> None:
    folder = getattr(sources, kind)(tmp_path / "source")
    target, link = tmp_path / "elsewhere", folder / place
    if link.exists():
        link.rename(target)
    else:
        target.write_text("key = 1\n")
        link.parent.mkdir(parents=True, exist_ok=True)
    if place == "points.json":
        with (folder / "evaluator.py").open("a") as file:
            file.write("\n# reads points.json\n")
    link.symlink_to(target)
    with pytest.raises(UsageError, match="link out of the directory") as caught:
        write_task(find([folder]), tmp_path / "to", Options())
    assert str(link) in str(caught.value.where) and caught.value.hint
    assert not (tmp_path / "to").exists()


def test_link_within_the_directory_is_copied_as_a_file(tmp_path: Path) -> None:
    folder = sources.sia_agent(tmp_path / "source")
    (folder / "data" / "notes.txt").write_text("n")
    (folder / "data" / "public" / "notes.txt").symlink_to(folder / "data" / "notes.txt")
    made = write_task(find([folder]), tmp_path / "to", Options())
    copied = made / "original" / "public" / "notes.txt"
    assert copied.read_text() == "n" and not copied.is_symlink()


def test_only_files_that_the_program_names_are_copied(tmp_path: Path) -> None:
    folder = sources.openevolve(tmp_path / "source")
    with (folder / "evaluator.py").open("a") as file:
        file.write("\nimport first\nDATA = 'points.npy'\n")
    named = {"first.py": "from second import x", "second.py": "x = 1", "points.npy": "1"}
    for name, text in {**named, "secrets.json": "k", "other.py": ""}.items():
        (folder / name).write_text(text)
    made = write_task(find([folder]), tmp_path / "to", Options())
    names = {file.name for file in (made / "original").iterdir()}
    assert names == {"evaluator.py", "initial_program.py", *named}


def test_import_command_writes_a_task_and_prints_the_next_step(tmp_path: Path) -> None:
    source = sources.openevolve(tmp_path / "source")
    words = ["task", "import", str(source), "--to", str(tmp_path / "Far Points"), "--range", "0", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "sia_core.cli.main", *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"sia check '{tmp_path / 'Far Points'}'" in done.stdout
    assert "the initial program scores 0.454545" in done.stdout
    assert "copied: original/evaluator.py, original/initial_program.py\n" in done.stdout
    task = Task.load(tmp_path / "Far Points")
    assert task.config.check.gold == task.chance == pytest.approx(10 * 0.5 / 11)
    assert (task.name, task.config.score_range) == ("far-points", (0.0, 2.0))
    assert json.loads((task.path / "import.json").read_text())["kind"] == "openevolve"
    assert {path.name for path in task.path.iterdir()} - {"__pycache__"} == {
        *("task.toml", "task.md", "task.py", "harness", "README.md", "import.json", "original"),
    }

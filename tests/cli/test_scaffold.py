"""`sia init` writes a sound task named after the directory, and overwrites nothing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sia_core.cli.init import KINDS, PLACEHOLDER, Kind, parse_kind, task_name, write_scaffold
from sia_core.cli.main import app
from sia_core.domain.errors import RecordError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import SPLITS
from sia_core.domain.task import Task
from tests.tasks.denoising.labs import InProcessLab


@pytest.mark.parametrize("kind", KINDS)
def test_written_task_can_be_loaded(tmp_path: Path, kind: Kind) -> None:
    path = write_scaffold(tmp_path / "My own Task", kind)
    task = Task.load(path)
    assert task.name == "my-own-task"
    assert Harness.load(path / "harness").config.name == "my-own-task"
    assert not [file for file in path.rglob("*") if file.is_file() and PLACEHOLDER in file.read_text()]
    plan = task.config.plan
    wanted = {"train": plan.problems, "gate": plan.gate_problems * plan.generations, "test": plan.test_problems}
    for split in SPLITS:
        problems = task.problems(split)
        # Enough for fresh gate problems in each generation, and nothing private where a harness looks.
        assert len(problems) >= wanted[split]
        assert len({json.dumps(dict(problem.public)) for problem in problems}) == len(problems)


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_pass_and_others_do_not(tmp_path: Path, kind: Kind) -> None:
    task = Task.load(write_scaffold(tmp_path / "own", kind))
    for problem in task.problems("train")[:6]:
        right = task.verify(problem, task.module.gold(problem), InProcessLab())
        assert right.score == pytest.approx(1) and right.valid
        for bait in (None, 7, [], {"answer": 3}, {"label": ["good"]}, *task.module.baits(problem).values()):
            assert task.verify(problem, bait, InProcessLab()).score == 0


def test_new_command_prints_the_next_step_and_overwrites_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "own"), "--kind", "classify"])
    assert done.exit_code == 0 and "sia check" in done.output
    before = (tmp_path / "own" / "task.py").read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        write_scaffold(tmp_path / "own", "answer")
    assert (tmp_path / "own" / "task.py").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="already exists"):
        write_scaffold(tmp_path / "file", "answer")
    (tmp_path / "empty").mkdir()
    assert write_scaffold(tmp_path / "empty", "answer").stat().st_mode & 0o777 == 0o755
    assert [folder.name for folder in tmp_path.iterdir() if folder.name.startswith(".")] == []


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        write_scaffold(tmp_path / "file" / "own", "answer")


def test_task_names_and_kinds_are_read() -> None:
    assert task_name(Path("/a/Ein Wort, 2!")) == "ein-wort-2"
    assert task_name(Path("/a/...")) == PLACEHOLDER
    with pytest.raises(UsageError, match="answer, program, classify"):
        parse_kind("essay")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_scaffold_passes_every_check(tmp_path: Path, kind: Kind) -> None:
    path = write_scaffold(tmp_path / "own", kind)
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 0, done.output
    assert "skipped" not in done.output and "own is sound" in done.output

"""Python answers as the command line does: the same errors with the same near names, silence, and tried answers."""

import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sia_core
from sia_core import Task, Verdict, evolve, load_result
from sia_core.api import run as api
from sia_core.cli import servers
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import BudgetError, HeldError, RecordError, SiaError, TaskError, UsageError
from sia_core.host.progress import Silent
from sia_core.loop import create_run
from sia_core.loop.configure import build_config
from sia_core.loop.create_run import namesake_lines
from sia_core.record.history import take_history
from sia_core.record.store import RunRecord, open_record
from sia_core.record.tags import Tag
from tests.factories import TOY

PYDANTIC = ("Input should", "validation error", "pydantic", "Extra inputs", "Field required", "type=")


@pytest.fixture(autouse=True)
def _unstarted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test of this file starts a run, unless it says so."""
    monkeypatch.setattr(api, "_run", lambda config, _: config)
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "sia-home"))


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        (TOY, {"generation": 2}, ("'generation'", "did you mean 'generations'?")),
        (TOY, {"progres": False}, ("'progres'", "did you mean 'progress'?")),
        (TOY, {"max-edit-lines": 3}, ("did you mean 'max_edit_lines'?",)),
        (TOY, {"generations": 0}, ("generations", "0 is not at least 1")),
        (TOY, {"generations": "two"}, ("generations", "'two' is not a whole number")),
        (TOY, {"generations": 1.5}, ("generations", "1.5 is not a whole number")),
        (TOY, {"siblings": 9}, ("siblings", "9 is not at most 8")),
        (TOY, {"seed": [1]}, ("seed", "[1] is not a whole number")),
        (TOY, {"approve": "perhaps"}, ("approve", "'perhaps' is not true or false")),
        (TOY, {"levers": ["weight"]}, ("levers", "'weight'", "harness")),
        (TOY, {"levers": 3}, ("levers", "3 is not a list of names")),
        (TOY, {"levers": "harnes"}, ("did you mean 'harness'?",)),
        (TOY, {"policy": 3}, ("policy", "3 is not a text")),
        (TOY, {"policy": "smolm2"}, ("did you mean 'smollm2'?",)),
        (TOY, {"policy": "openia:gpt"}, ("did you mean 'openai:'?",)),
        (TOY, {"agent": "rule"}, ("did you mean 'rules'?",)),
        (TOY, {"agent": "antropic:m"}, ("did you mean 'anthropic:'?",)),
        (TOY, {"budget": "rollout=5"}, ("'rollout'", "did you mean 'rollouts'?")),
        (TOY, {"budget": "rollouts=many"}, ("rollouts", "'many' is not a number")),
        (TOY, {"budget": 5}, ("budget", "5 is not a table")),
        (TOY, {"budget": {"rollout": 5}}, ("budget", "did you mean 'rollouts'?")),
        (TOY, {"sandbox": "strickt"}, ("did you mean 'strict'?",)),
        (TOY, {"sandbox": 1}, ("sandbox", "1")),
        (TOY, {"parent": "bset"}, ("did you mean 'best'?",)),
        (TOY, {"parent": 5}, ("parent", "5")),
        (TOY, {"edit_scope": "prompt"}, ("did you mean 'prompts'?",)),
        (TOY, {"agent_minutes": math.nan}, ("agent_minutes", "nan is not above 0")),
        ("denoisin", {}, ("unknown task 'denoisin'", "did you mean 'denoising'?")),
        (f"{TOY}:rich", {}, ("no form 'rich'",)),
        (None, {}, ("unknown task",)),
        (7, {}, ("unknown task",)),
    ],
)
def test_invalid_argument_is_an_error_in_words_with_the_near_name(
    task: Any, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(SiaError) as caught:
        evolve(task, **{"policy": "scripted", "sandbox": "none", **settings})
    text = str(caught.value)
    assert all(word.replace("_", "-") in text or word in text for word in words), text
    assert not any(word in text for word in PYDANTIC), text
    assert caught.value.hint and text.count("next:") == 1
    assert caught.value.__cause__ is None, "pydantic's own text would be printed above this error"


def test_lists_and_tables_are_settings_as_texts_are(tiny_model: Path) -> None:
    policy = f"local:{tiny_model}"
    texts: Any = evolve(TOY, policy=policy, levers="weights", budget="rollouts=5", approve="yes")
    values: Any = evolve(Task.load(TOY), policy=policy, levers=["weights"], budget={"rollouts": 5}, approve=True)
    assert isinstance(texts, RunConfig) and texts == values


def test_near_names_of_the_command_line_are_those_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from sia_core.cli.main import app

    for words, expected in (
        (["run", "denoisin"], "did you mean 'denoising'?"),
        (["run", TOY, "--policy", "smolm2"], "did you mean 'smollm2'?"),
        (["run", TOY, "--policy", "scripted", "--agent", "rule"], "did you mean 'rules'?"),
    ):
        done = CliRunner().invoke(app, [*words, "--dry-run"])
        assert expected in str(done.exception), (words, done.exception)


def test_unknown_split_and_problem_are_errors_with_near_names() -> None:
    task = Task.load(TOY)
    with pytest.raises(UsageError, match="did you mean 'train'"):
        task.problems("tran")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="did you mean 'train-1"):
        task.problem("train", "trian-1")
    assert task.problem("train", "train-3").id == "train-3"


# Tried answers.


@pytest.mark.parametrize("by_id", [True, False])
def test_answer_can_be_tried_by_problem_and_by_id(bwrap: str, by_id: bool) -> None:
    task = Task.load(TOY)
    problem = task.problems("train")[2]
    verdict = task.try_answer(problem.id if by_id else problem, {"colour": "green"})
    assert verdict == Verdict(0.3, feedback="green was picked")


def test_tried_answer_is_read_as_json_data(bwrap: str, tmp_path: Path) -> None:
    toy = shutil.copytree(TOY, tmp_path / "toy")
    with (toy / "task.py").open("a") as file:
        file.write("\n\ndef verify(problem, answer, lab):\n    return Verdict(0.0, feedback=repr(answer))\n")
    task = Task.load(toy)
    assert task.try_answer("train-0", {"a": (1, 2), 3: None}).feedback == "{'a': [1, 2], '3': None}"


@pytest.mark.parametrize("answer", [math.nan, {"x": math.inf}, {1, 2}, b"bytes", object(), lambda: 1])
def test_tried_answer_that_is_not_json_is_refused(answer: Any) -> None:
    with pytest.raises(UsageError, match="not JSON") as caught:
        Task.load(TOY).try_answer("train-0", answer)
    assert caught.value.hint


def test_tried_answer_of_an_unknown_problem_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no problem 'tran-3', did you mean 'train-3'\?"):
        Task.load(TOY).try_answer("tran-3", {"colour": "blue"})
    with pytest.raises(UsageError, match="no problem 'zzz'") as caught:
        Task.load(TOY).try_answer("zzz", {"colour": "blue"})
    assert "train-0" in caught.value.hint
    with pytest.raises(UsageError, match="neither a problem nor an id"):
        Task.load(TOY).try_answer(3, {})  # type: ignore[arg-type]


def test_tried_answer_on_which_the_verifier_fails_is_an_error_of_the_task(bwrap: str, tmp_path: Path) -> None:
    toy = shutil.copytree(TOY, tmp_path / "toy")
    with (toy / "task.py").open("a") as file:
        file.write("\n\ndef verify(problem, answer, lab):\n    return answer['x'] / 0\n")
    with pytest.raises(TaskError, match="ZeroDivisionError") as caught:
        Task.load(toy).try_answer("train-0", {"x": 1})
    assert "task.py" in str(caught.value) and "sia check" in caught.value.hint


def test_private_data_are_in_no_part_of_a_tried_answer(bwrap: str) -> None:
    task = Task.load(TOY)
    assert "canary" not in repr(task.try_answer("train-0", {"colour": "mud"})) and "worth" not in repr(
        task.problems("train")[0]
    )


def test_documented_names_exist_on_the_public_task() -> None:
    text = (Path(sia_core.__file__).parents[1] / "docs" / "python.md").read_text()
    assert "try_answer(problem, answer)" in text and callable(Task.try_answer)
    assert isinstance(Task.load(TOY), Task)


# Silence.


def test_evolve_without_progress_is_silent(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    seen: list[Any] = []

    def start(config: RunConfig, reporter: Any, *, meanwhile: Any) -> RunRecord:
        meanwhile()
        reporter.say("a line")
        reporter.progress("a step", 1, 1)
        create_run.record().waiting.say("a wait for MLflow")
        logging.getLogger("prefect.flow_runs").warning("a warning of a library")
        seen.append(config)
        raise RecordError("stop here", hint="h")

    monkeypatch.setattr("sia_core.app.start", start)
    monkeypatch.setattr(create_run, "open_record", lambda _home, _uri, say: _Store(say))
    monkeypatch.setattr(servers, "check_all", lambda: None)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(logging, "lastResort", None)
    with pytest.raises(RecordError):
        evolve(TOY, policy="scripted", sandbox="none", progress=False)
    captured = capfd.readouterr()
    assert seen and (captured.out, captured.err) == ("", "")
    assert not caplog.records
    with pytest.raises(RecordError):
        evolve(TOY, policy="scripted", sandbox="none")
    assert "a line" in "".join(capfd.readouterr())
    logging.getLogger("prefect.flow_runs").warning("loggers are as before")
    assert [record.message for record in caplog.records][-1] == "loggers are as before"


class _Store:
    def __init__(self, say: Any) -> None:
        self.waiting = type("Waiting", (), {"say": staticmethod(say)})


SILENT_RUN = """
import sys
from sia_core import evolve
evolve({toy!r}, policy="scripted", seed=1, generations=1, problems=2, rollouts=2, test_problems=2, progress=False)
"""


@pytest.mark.slow
def test_whole_run_without_progress_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect, Ray and MLflow included, on a home that has never been used."""
    import os

    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"SIA_HOME": str(home)}
    code = SILENT_RUN.format(toy=TOY)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=900
        )
    finally:
        subprocess.run([sys.executable, "-m", "sia_core.cli.main", "ui", "--stop"], env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# One hint.


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RecordError("w", hint="h"), "h; then: sia resume toy-1"),
        (RecordError("w"), "sia resume toy-1"),
        (BudgetError("w", hint="sia resume toy-1 --budget rollouts=9"), "sia resume toy-1 --budget rollouts=9"),
        (RecordError("w", hint="do x; then: sia resume toy-1"), "do x; then: sia resume toy-1"),
    ],
)
def test_error_of_a_run_names_the_next_step_once(error: SiaError, expected: str) -> None:
    run: Any = type("Run", (), {"name": "toy-1", "end": lambda *_: None})()
    api._give_up(run, error)
    api._give_up(run, error)
    assert error.hint == expected and str(error).count("sia resume") == 1


@pytest.mark.control
def test_error_of_a_run_that_another_process_holds_is_left_as_it_is() -> None:
    error = HeldError("w", hint="h")
    api._give_up(type("Run", (), {"name": "toy-1"})(), error)
    assert error.hint == "h"


# Names of runs.


def make_run(home: Path, task: Path | str = TOY, **tags: str) -> RunRecord:
    """A run in the store of this home, without anything played."""
    loaded = Task.load(task)
    config = build_config(str(task), policy="scripted", sandbox="none")
    return open_record(home, None).create(config, {Tag.TASK: loaded.name, Tag.TASK_DIGEST: loaded.digest, **tags})


def test_task_that_names_several_runs_means_its_newest_and_says_so(
    store_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(store_home)
    record = open_record(store_home, None)
    assert record.open("toy").name == first.name and capsys.readouterr().err == ""
    second = make_run(store_home)
    for name in ("toy", "latest"):
        assert record.open(name).name == second.name
        said = capsys.readouterr().err
        assert second.name in said and "newest" in said and ("2 runs" in said or name == "latest")
    assert record.open(first.name).name == first.name and capsys.readouterr().err == ""


def test_latest_without_any_run_is_an_error(store_home: Path) -> None:
    with pytest.raises(RecordError, match="no runs yet") as caught:
        open_record(store_home, None).open("latest")
    assert "sia run" in caught.value.hint


def test_mistyped_run_names_the_nearest(store_home: Path) -> None:
    run = make_run(store_home)
    with pytest.raises(RecordError, match=f"did you mean '{run.name}'"):
        open_record(store_home, None).open(f"tyo{run.name[3:]}")


def test_beginning_of_several_names_is_still_refused_with_the_names(
    store_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = iter(["aaa111", "aaa222", "bbb333"])
    monkeypatch.setattr(
        "sia_core.record.store.secrets.token_hex", lambda size: next(tokens) if size == 3 else "f0" * size
    )
    for _ in range(3):
        make_run(store_home)
    record = open_record(store_home, None)
    with pytest.raises(RecordError, match="several runs begin with 'toy-aaa'") as caught:
        record.open("toy-aaa")
    assert "toy-aaa111" in caught.value.hint and "toy-aaa222" in caught.value.hint
    assert record.open("toy-b").name == "toy-bbb333"


def test_task_whose_name_begins_another_is_not_mixed_up(store_home: Path, tmp_path: Path) -> None:
    other = shutil.copytree(TOY, tmp_path / "toy-two")
    text = (other / "task.toml").read_text()
    (other / "task.toml").write_text(text.replace('name = "toy"', 'name = "toy-two"'))
    mine = make_run(store_home)
    make_run(store_home, other)
    assert open_record(store_home, None).open("toy").name == mine.name


def test_load_result_takes_the_names_of_the_command_line(store_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(store_home))
    make_run(store_home)
    run = make_run(store_home)
    with pytest.raises(RecordError, match="no sealed test") as caught:
        load_result("toy")
    assert run.name in str(caught.value)


# Two directories with one name.


@pytest.fixture
def two_toys(tmp_path: Path) -> tuple[Path, Path]:
    """Two directories of different tasks that have one name."""
    first, second = (shutil.copytree(TOY, tmp_path / place / "toy") for place in ("one", "two"))
    with (second / "task.py").open("a") as file:
        file.write("\n# Another verifier.\n")
    return first, second


def test_run_of_another_directory_with_this_name_is_said(store_home: Path, two_toys: tuple[Path, Path]) -> None:
    first, second = two_toys
    run = make_run(store_home, first)
    record = open_record(store_home, None)
    assert not namesake_lines(record, Task.load(first))
    (line,) = namesake_lines(record, Task.load(second))
    assert str(first) in line and run.name in line and "name" in line and "task.toml" in line


@pytest.mark.parametrize("change", ["edited", "moved", "form"])
def test_same_task_edited_or_moved_is_no_other_task(
    store_home: Path, two_toys: tuple[Path, Path], tmp_path: Path, change: str
) -> None:
    first, _ = two_toys
    make_run(store_home, first)
    record = open_record(store_home, None)
    if change == "edited":
        with (first / "task.py").open("a") as file:
            file.write("\n# Edited.\n")
    elif change == "moved":
        first = first.rename(tmp_path / "elsewhere")
    else:
        with (first / "task.toml").open("a") as file:
            file.write("\n[forms.rich.plan]\nproblems = 2\n")
    assert not namesake_lines(record, Task.load(f"{first}:rich" if change == "form" else first))


def test_agents_do_not_learn_from_another_directory_with_this_name(
    store_home: Path, two_toys: tuple[Path, Path]
) -> None:
    first, second = two_toys
    for task in (first, second):
        run = make_run(store_home, task)
        run.generation(1).set_tags({Tag.PROMOTED: "false"})
    record = open_record(store_home, None)
    new = make_run(store_home, second)
    rows = take_history(record, new.experiment_id, new.name, Task.load(second))
    assert [row["run"] for row in rows] == [run.name]


def test_branch_from_another_directory_with_this_name_is_refused(
    store_home: Path, two_toys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_toys
    monkeypatch.setenv("SIA_HOME", str(store_home))
    run = make_run(store_home, first)
    config = build_config(str(first), policy="scripted", sandbox="none")
    task = Task.load(first)
    from sia_core.domain.harness import Harness

    create_run.complete_opening(run, task, Harness.load(first / "harness"))
    assert create_run.branch(config, run.name, None).branch_from
    other = build_config(str(second), policy="scripted", sandbox="none")
    with pytest.raises(UsageError, match="another task") as caught:
        create_run.branch(other, run.name, None)
    assert str(first) in str(caught.value)


def test_start_says_that_another_directory_has_this_name(
    store_home: Path, two_toys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sia_core import app

    first, second = two_toys
    monkeypatch.setenv("SIA_HOME", str(store_home))
    monkeypatch.setattr(app, "check_sandbox", lambda _config: None)
    make_run(store_home, first)
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    app.start(build_config(str(second), policy="scripted", sandbox="none"), Heard())
    assert [line for line in said if str(first) in line]

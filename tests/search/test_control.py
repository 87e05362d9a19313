"""The table of controls of a task is made from finished runs, read strictly, and shown beside recorded decisions."""

import shutil
from pathlib import Path

import pytest

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import TaskError
from sia_core.domain.lineage import Cost
from sia_core.domain.task import ARMS, Task
from sia_core.search.arms import ArmRun
from sia_core.search.control import control_lines, read_table, table_of
from tests.factories import TOY


def config(task: Task, **given: object) -> RunConfig:
    plan = task.config.plan.model_dump() | {"generations": 2}
    return RunConfig.model_validate({"task": task.where, **plan, "agent": "recorded", **given})


@pytest.fixture
def task(tmp_path: Path) -> Task:
    toy = shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    task = Task.load(toy)
    scores = {f"test-{number}": [0.1 * number, 0.1 * number + 0.1] for number in range(6)}
    runs = [ArmRun("rules", 3, "toy-1", scores, scores, Cost())]
    (toy / ARMS).write_text(table_of(runs, config(task), task, "toy-arms-1").model_dump_json())
    return task


def test_control_of_the_same_seed_is_stated_with_its_interval(task: Task) -> None:
    (line,) = control_lines(task, config(task, seed=3))
    table = read_table(task)
    assert table is not None
    sealed = table.arms["rules"][3]
    assert sealed.mean == pytest.approx(0.3) and sealed.low < 0.3 < sealed.high
    assert f"rules on seed 3 reached {sealed} on the sealed test (6 problems)" in line
    assert "made with other" not in line


def test_control_made_with_other_settings_says_so(task: Task) -> None:
    (line,) = control_lines(task, config(task, seed=3, generations=5))
    assert line.endswith("it was made with other files, another policy or other generations")


def test_control_of_another_seed_is_named_as_missing(task: Task) -> None:
    assert control_lines(task, config(task, seed=4)) == ["control: no run of rules on seed 4 is recorded (seeds: 3)"]


def test_table_of_controls_is_optional_and_no_part_of_the_task(task: Task) -> None:
    assert Task.load(task.path).digest == task.digest
    (task.path / ARMS).unlink()
    assert control_lines(task, config(task)) == []


def test_broken_table_is_refused_by_field(task: Task) -> None:
    (task.path / ARMS).write_text('{"format": "sia-arms/1", "arms": 3}')
    with pytest.raises(TaskError, match="arms") as caught:
        read_table(task)
    assert caught.value.hint == "write it again: sia arms --resume NAME --save FILE"

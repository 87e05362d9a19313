"""Recorded decisions are compared with a run: impossible ones end the run at once, and differences are listed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.fit import check_fit
from sia_core.agents.registry import asks_model, load_agents
from sia_core.domain.errors import PolicyError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.task import Task
from sia_core.loop.configure import build_config, change_config
from tests.agents.recordings import entry, put
from tests.factories import TOY

TASK = Task.load(TOY)
OWN = {"harness": Harness.load(TASK.path / "harness").digest}
SAME = {"task": {"name": "toy", "digest": TASK.digest}, "first": OWN}


def build(file: Path | str, **given: Any) -> Any:
    spec = file if isinstance(file, str) else f"recorded:{file}"
    settings = {"levers": None, "sandbox": "none", "policy": "scripted", "meta": False, "seed": 1, **given}
    return build_config(settings.pop("task", TOY), generations=1, agent=spec, **settings)


def test_run_like_the_recorded_one_differs_in_nothing(tmp_path: Path) -> None:
    config = build(put(tmp_path / "d.json", entry(1), **SAME))
    assert check_fit(config, TASK) == []
    assert check_fit(config.model_copy(update={"agent": "rules"}), TASK) == []
    assert not asks_model(config.agent) and asks_model("openai:m")


def test_all_differences_are_listed(tmp_path: Path) -> None:
    first = {"harness": "e" * 64, "adapter": "f" * 64}
    file = put(tmp_path / "d.json", entry(1, lever="weights"), policy="smollm2", siblings=2, seed=1, first=first)
    config = build(file, levers="harness").model_copy(update={"generations": 2})
    said = check_fit(config, TASK)
    for words in (
        "files of task toy are not those",
        "began with an adapter",
        "began with another harness",
        "the policy was smollm2",
        "trains weights, which this run may not",
        "a generation had 2 siblings",
        "decisions of 1 generations are recorded",
        "made on seed 1 too",
    ):
        assert any(words in line for line in said), words
    assert len(said) == 8


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"task": {"name": "denoising", "digest": "d"}}, UsageError, "for task denoising, not for toy"),
        ({"decisions": [entry(1, lever="weights")]}, UsageError, "policy scripted cannot be trained"),
    ],
)
def test_decisions_that_cannot_work_are_refused(
    tmp_path: Path, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    entries = given.pop("decisions", [entry(1)])
    with pytest.raises(error, match=words):
        build(put(tmp_path / "d.json", *entries, **given))


def test_file_that_is_not_there_is_refused_for_a_new_run_and_for_a_child(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        build(tmp_path / "nowhere.json")
    config = build("rules")
    with pytest.raises(PolicyError, match="cannot be read"):
        change_config(config, {"agent": f"recorded:{tmp_path}/nowhere.json"})
    with pytest.raises(UsageError, match="ships no recorded decisions"):
        build("recorded")


def test_first_harness_is_written_only_where_the_file_holds_one(tmp_path: Path) -> None:
    bare = shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("harness", "__pycache__"))
    with pytest.raises(UsageError, match="hold no first harness"):
        build(put(tmp_path / "d.json", entry(1), **SAME), task=str(bare))
    with pytest.raises(UsageError, match="hold no first harness"):
        build(tmp_path / "d.json", meta=True)
    own = Harness.load(TASK.path / "harness")
    files = {"harness": own.digest, "files": {name: data.decode() for name, data in own.files.items()}}
    assert build(put(tmp_path / "e.json", entry(1), **{**SAME, "first": files}), task=str(bare)).meta


def test_shipped_decisions_are_no_part_of_the_task_and_are_found_without_a_file(tmp_path: Path) -> None:
    toy = shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    before = Task.load(toy)
    put(toy / "recorded.json", entry(1), **{**SAME, "task": {"name": "toy", "digest": before.digest}})
    task = Task.load(toy)
    assert task.digest == before.digest
    config = build("recorded", task=str(toy))
    assert check_fit(config, task) == []
    settings: dict[str, Any] = {"allowance": None, "silence_s": 1.0, "log": tmp_path, "history": list, "keep": None}
    agents = load_agents("recorded", task, **settings)
    assert agents.feedback.spec == "recorded"

"""The seed harness: every knob setting picks programs that compile, run and are scored."""

import importlib.util
import random
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.lab import Limits
from sia_core.domain.task import Problem, Task
from tests.tasks.denoising.labs import InProcessLab


class RandomPolicy:
    """A `ctx` that picks at random, or the given options."""

    def __init__(
        self, knobs: dict[str, KnobValue], problem: Problem, wishes: Sequence[str] = (), seed: int = 0
    ) -> None:
        self.knobs, self._problem, self._wishes = knobs, problem, list(wishes)
        self._random = random.Random(seed)
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.runs = 0
        self.notes: list[str] = []

    async def choose(self, prompt: str, options: list[str]) -> str:
        self.asked.append((prompt, tuple(options)))
        return self._wishes.pop(0) if self._wishes else self._random.choice(options)

    async def run(self, code: str, *, seconds: float = 30.0) -> dict[str, Any]:
        self.runs += 1
        result = InProcessLab().run({"main.py": code.encode(), **self._problem.files}, Limits(wall_s=seconds))
        return {"status": result.status, "stdout": result.stdout, "stderr": result.stderr}

    async def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def harness(task: Task) -> Harness:
    return Harness.load(task.path / task.config.harness)


@pytest.fixture(scope="module")
def agent(task: Task) -> ModuleType:
    spec = importlib.util.spec_from_file_location("denoising_agent", task.path / "harness" / "agent.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(harness: Harness) -> list[dict[str, KnobValue]]:
    """Every single knob moved to each of its values, and all of them at their richest."""
    found, richest = [harness.knobs], {}
    for name, knob in harness.config.knobs.items():
        values: Sequence[KnobValue] = knob.options or [int(edge) for edge in knob.range or ()]
        found += [{**harness.knobs, name: value} for value in values]
        richest[name] = values[-1]
    return [*found, richest]


def test_knobs_begin_at_their_plainest_value(harness: Harness) -> None:
    for knob in harness.config.knobs.values():
        assert knob.value == (knob.options or knob.range or (None,))[0]
        assert knob.help


async def test_every_knob_setting_gives_a_program_that_runs(
    agent: ModuleType, harness: Harness, task: Task, problem: Problem, lab: InProcessLab
) -> None:
    for number, moved in enumerate(settings(harness)):
        knobs = harness.with_knobs(moved).knobs
        answer = await agent.solve({}, RandomPolicy({**knobs, "attempts": 1}, problem, seed=number))
        verdict = task.verify(problem, answer, lab)
        assert "status" not in verdict.feedback, verdict.feedback


async def test_every_method_and_transform_runs(
    agent: ModuleType, harness: Harness, task: Task, problem: Problem, lab: InProcessLab
) -> None:
    knobs = harness.with_knobs({"methods": "wide", "transforms": "all"}).knobs
    for method in agent.METHODS["wide"]:
        for transform in agent.TRANSFORMS["all"]:
            wishes = [method] if method == "copy" else [method, transform]
            answer = await agent.solve({}, RandomPolicy(knobs, problem, wishes))
            verdict = task.verify(problem, answer, lab)
            assert "scaled_mse" in verdict.metrics, f"{method} {transform}: {verdict.feedback}"


async def test_prompts_are_short_and_options_differ_in_their_first_character(
    agent: ModuleType, harness: Harness, problem: Problem
) -> None:
    prompts = set()
    for knobs in settings(harness):
        for seed in range(20):
            ctx = RandomPolicy({**knobs, "attempts": 1}, problem, seed=seed)
            await agent.solve({}, ctx)
            prompts |= set(ctx.asked)
    for prompt, options in prompts:
        assert len(prompt) < 80
        assert len({option[0] for option in options}) == len(options), options


async def test_prompt_repeats_where_its_choice_does(agent: ModuleType, harness: Harness, problem: Problem) -> None:
    wishes = ["svd", "log", "8", "0", "20"]
    knobs = settings(harness)[-1] | {"attempts": 1}
    first, second = (RandomPolicy(knobs, problem, wishes, seed) for seed in (1, 2))
    await agent.solve({"id": "one"}, first)
    await agent.solve({"id": "two"}, second)
    assert first.asked == second.asked


async def test_several_attempts_answer_with_the_one_that_judges_best(
    agent: ModuleType, harness: Harness, task: Task, problem: Problem, lab: InProcessLab
) -> None:
    knobs = harness.with_knobs({"attempts": 3}).knobs
    wishes = ["mean", "raw", "neighbours", "log", "10", "copy"]
    ctx = RandomPolicy(knobs, problem, wishes)
    answer = await agent.solve({}, ctx)
    assert "METHOD = 'neighbours'" in answer["code"]
    assert ctx.runs == 3 and "inner errors" in ctx.notes[0]
    assert task.verify(problem, answer, lab).valid


async def test_equal_attempts_cost_no_programs(agent: ModuleType, harness: Harness, problem: Problem) -> None:
    ctx = RandomPolicy(harness.with_knobs({"attempts": 2}).knobs, problem, ["copy", "copy"])
    await agent.solve({}, ctx)
    assert ctx.runs == 0


async def test_program_that_fails_its_trial_is_never_preferred(agent: ModuleType) -> None:
    async def run(_code: str, *, seconds: float) -> dict[str, str]:
        return {"status": "timeout", "stdout": "", "stderr": ""}

    assert await agent.judge("", SimpleNamespace(run=run)) == float("inf")


def test_harness_needs_the_standard_library_only(agent: ModuleType, harness: Harness) -> None:
    assert harness.config.modules == ()
    assert not {"numpy", "scipy"} & set(vars(agent))
    assert sys.modules.get("denoising_agent") is None

"""The seed harness: every menu gives a right program, and the code mode tries and repairs through the engine."""

import importlib.util
import json
import random
from collections.abc import Sequence
from types import ModuleType

import pytest

from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.rollout import Unit
from sia_core.domain.task import Problem, Task
from sia_core.engine.worker import RolloutRunner, SandboxLab
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.scripted import ScriptedPolicy, render
from tasks.trimul.programs import EAGER


@pytest.fixture(scope="module")
def harness(task: Task) -> Harness:
    return Harness.load(task.path / task.config.harness)


@pytest.fixture(scope="module")
def agent(task: Task) -> ModuleType:
    spec = importlib.util.spec_from_file_location("trimul_agent", task.path / "harness" / "agent.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Menu:
    """A `ctx` that picks the given options, else at random."""

    def __init__(self, knobs: dict[str, KnobValue], wishes: Sequence[str] = (), seed: int = 0) -> None:
        self.knobs, self._wishes, self._random = knobs, list(wishes), random.Random(seed)
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    async def choose(self, prompt: str, options: list[str]) -> str:
        self.asked.append((prompt, tuple(options)))
        return self._wishes.pop(0) if self._wishes else self._random.choice(options)


WIDEST: dict[str, KnobValue] = {
    "forms": "wide", "project": "choose", "gate": "choose", "dtype": "choose", "threads": "choose",
}  # fmt: skip


def test_menu_knobs_stand_at_their_plainest(harness: Harness) -> None:
    for name in (*WIDEST, "mode"):
        knob = harness.config.knobs[name]
        assert knob.options is not None and knob.value == knob.options[0] and knob.help


@pytest.mark.parametrize("project", ["apart", "together"])
@pytest.mark.parametrize("gate", ["new", "place"])
async def test_every_path_of_the_menu_is_right(
    agent: ModuleType, harness: Harness, task: Task, problem: Problem, lab: SandboxLab, project: str, gate: str
) -> None:
    knobs = harness.with_knobs(WIDEST).knobs
    for form in agent.FORMS["wide"]:
        answer = await agent.solve({}, Menu(knobs, [form, project, gate, "float32", "1"]))
        verdict = task.verify(problem, answer, lab)
        assert verdict.valid, f"{form}: {verdict.feedback}"


async def test_imprecise_menu_choice_is_refused(
    agent: ModuleType, harness: Harness, task: Task, problem: Problem, lab: SandboxLab
) -> None:
    knobs = harness.with_knobs(WIDEST).knobs
    answer = await agent.solve({}, Menu(knobs, ["batched", "apart", "new", "bfloat16", "1"]))
    assert "precision" in task.verify(problem, answer, lab).feedback


async def test_prompts_are_short_repeat_and_open_with_different_characters(agent: ModuleType, harness: Harness) -> None:
    prompts = set()
    for seed in range(40):
        ctx = Menu(harness.with_knobs(WIDEST).knobs, seed=seed)
        await agent.solve({"id": seed}, ctx)
        prompts |= set(ctx.asked)
    assert len(prompts) < 30
    for prompt, options in prompts:
        assert len(prompt) < 80 and len({option[0] for option in options}) == len(options)


async def test_seed_harness_asks_a_single_question(agent: ModuleType, harness: Harness) -> None:
    ctx = Menu(harness.knobs)
    await agent.solve({}, ctx)
    assert [options for _, options in ctx.asked] == [("rows", "chunk")]


class Coder:
    """A `ctx` whose policy writes these replies, and whose programs are run by a function."""

    def __init__(self, harness: Harness, replies: Sequence[str], results: Sequence[dict[str, str]]) -> None:
        self.knobs = harness.with_knobs({"mode": "code"}).knobs
        self._harness, self._replies, self._results = harness, list(replies), list(results)
        self.heard: list[str] = []
        self.notes: list[str] = []

    def prompt(self, name: str, **values: object) -> str:
        return self._harness.files[f"prompts/{name}"].decode().format(**values)

    async def chat(self, messages: list[dict[str, str]], *, max_tokens: int) -> str:
        self.heard.append(messages[-1]["content"])
        return self._replies.pop(0)

    async def run(self, code: str, *, seconds: float) -> dict[str, str]:
        compile(code, "trial", "exec")
        return self._results.pop(0)

    async def note(self, text: str) -> None:
        self.notes.append(text)


def result(right: bool, seconds: float, said: str = "") -> dict[str, str]:
    return {"status": "ok", "stdout": json.dumps({"right": right, "seconds": seconds, "said": said}), "stderr": ""}


TASK = {"device": "cpu", "shapes": []}


async def test_code_mode_keeps_the_fastest_right_program(agent: ModuleType, harness: Harness) -> None:
    replies = [f"Here:\n```python\nprogram = {number}\n```" for number in range(3)]
    ctx = Coder(harness, replies, [result(True, 0.5), result(True, 0.2), result(False, 0.1)])
    assert (await agent.solve(TASK, ctx))["code"] == "program = 1\n"


async def test_code_mode_says_what_went_wrong_and_falls_back_to_the_naive_loop(
    agent: ModuleType, harness: Harness
) -> None:
    failed = {"status": "error", "stdout": "", "stderr": "Traceback\nNameError: name 'y'", "reason": ""}
    spoiled = {"status": "ok", "stdout": "hello", "stderr": ""}
    ctx = Coder(harness, ["no code", "```\na\n```", "```python\nb\n```"], [failed, spoiled])
    answer = await agent.solve(TASK, ctx)
    assert "no program was found" in ctx.heard[1] and "NameError" in ctx.heard[2]
    assert "print nothing" in ctx.notes[-1]
    assert answer["code"] == agent.program({})


REPLIES = (
    "Let me think.",
    f"```python\n{EAGER.replace('mask[..., None]', '1.0')}\n```",
    f"Now with the mask:\n```python\n{EAGER}\n```",
)


class Replies(ScriptedPolicy):
    """A policy with these replies, in their order."""

    def __init__(self, replies: Sequence[str]) -> None:
        self._replies = list(replies)
        self.prompts: list[str] = []

    def sample(self, request: Request) -> Completion:
        self.prompts.append(render(request.messages))
        return Completion(self._replies.pop(0), self.prompts[-1])


def test_scripted_answers_through_the_real_engine(task: Task, harness: Harness, lab: SandboxLab) -> None:
    """After prose and a program without the mask, the harness gets a right program that the verifier accepts."""
    coder, problem, policy = harness.with_knobs({"mode": "code"}), task.problems("train")[0], Replies(REPLIES)
    unit = Unit(task.digest, coder.digest, policy.digest, None, "train", problem.id, 0, task.sampling)
    runner = RolloutRunner(task, "strict")
    try:
        rollout = runner.run(unit, coder, None, policy)
    finally:
        runner.close()
    assert rollout.failure is None, rollout.failure
    assert rollout.answer["code"] == EAGER + "\n"
    assert rollout.verdict is not None and rollout.verdict.valid, rollout.verdict
    assert "no program was found" in policy.prompts[1] and "relative error" in policy.prompts[2]
    assert any("right; " in note for note in rollout.notes)

"""The form `full` reads, tries, fixes and submits a model's programs, through the real engine."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sia_core.domain.errors import SandboxError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.contract import check_contract, check_import
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.protocol import Completion
from tasks.denoising.baits import BAITS, SOUND
from tests.agents.models import Script, says
from tests.wire.server import chat, serve

WORSE = SOUND.replace(":8]", ":40]").replace("[:8]", "[:40]")


def fenced(code: str) -> str:
    return f"Here it is.\n```python\n{code}\n```\nIt smooths."


@pytest.fixture(scope="module")
def full() -> Task:
    return Task.load("denoising:full")


@pytest.fixture(scope="module")
def harness(full: Task) -> Harness:
    return Harness.load(full.path / full.config.harness)


@pytest.fixture(scope="module")
def runner(full: Task) -> Iterator[RolloutRunner]:
    runner = RolloutRunner(full, "strict")
    try:
        runner.open()
    except SandboxError as error:
        pytest.skip(f"no strict sandbox here: {error.what}")
    yield runner
    runner.close()


def play(
    runner: RolloutRunner, full: Task, harness: Harness, replies: Sequence[str | Completion | Exception]
) -> tuple[Rollout, Script]:
    """Play a rollout on the first training problem; the last reply is repeated."""
    script = Script([says(reply) if isinstance(reply, str) else reply for reply in replies])
    problem = full.problems("train")[0].id
    unit = Unit(full.digest, harness.digest, "script", None, "train", problem, 0, full.sampling)
    return runner.run(unit, harness, None, script), script


def asked(script: Script, at: int) -> str:
    """Return the last message that the policy read before its reply number `at`."""
    return str(script.requests[at].messages[-1]["content"])


def test_form_differs_in_its_tables_only(full: Task, task: Task) -> None:
    assert (full.where, full.digest) == ("denoising:full", task.digest)
    assert full.config.sampling.max_tokens == 6000 and task.config.sampling.max_tokens == 64
    assert full.config.limits.memory_mb == task.config.limits.memory_mb
    assert full.config.plan.generations == task.config.plan.generations
    assert [one.id for one in full.problems("gate")] == [one.id for one in task.problems("gate")]
    with pytest.raises(UsageError, match="no form 'fuller'") as caught:
        Task.load("denoising:fuller")
    assert "full" in caught.value.hint


def test_harness_passes_the_cheap_rungs(runner: RolloutRunner, full: Task, harness: Harness) -> None:
    assert check_import(runner, harness).passed
    found = check_contract(runner, full, [full.problems("train")[0].id], harness, None)
    assert found.passed, found


def test_program_that_fails_is_fixed(runner: RolloutRunner, full: Task, harness: Harness) -> None:
    broken = SOUND.replace("np.sqrt(X / depth * 1e4)", "np.sqrt(X / dept)")
    done, script = play(runner, full, harness, ["I would smooth it.", fenced(broken), fenced(SOUND)])
    assert done.failure is None and done.verdict is not None
    assert done.verdict.valid and done.verdict.score > 0.05, done.verdict.feedback
    assert len(script.requests) == 3
    assert "150 cells x" in asked(script, 0) and "```python" in asked(script, 0)
    assert "no ```python block" in asked(script, 1)
    assert "NameError: name 'dept' is not defined" in asked(script, 2)
    assert [message["role"] for message in script.requests[2].messages] == ["user", "assistant"] * 2 + ["user"]


def test_best_of_several_programs_is_handed_in(runner: RolloutRunner, full: Task, harness: Harness) -> None:
    done, script = play(runner, full, harness, [fenced(WORSE), fenced(SOUND), fenced(BAITS["X as it is"])])
    assert done.answer == {"code": SOUND + "\n"}
    scores = [float(value) for value in re.findall(r"score (-?[0-9.]+) \(0 is X", "\n".join(done.notes))]
    assert len(scores) == 3 and max(scores) == scores[1]
    assert "keeps the rules" in asked(script, 2)
    assert done.verdict is not None and done.verdict.valid


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mass dumped on one gene a cell", "Poisson rule is broken"),
        ("X at little mass", "Poisson rule is broken"),
        ("nothing", "150 cells were left without any counts"),
        ("NaN", "1 entries are NaN or infinite"),
        ("a negative entry", "entries are negative"),
        ("a cell short", "the result has shape (149,"),
    ],
)
def test_trial_names_the_broken_rule(
    runner: RolloutRunner, full: Task, harness: Harness, name: str, words: str
) -> None:
    two = harness.with_knobs({"attempts": 2})
    done, script = play(runner, full, two, [fenced(BAITS[name])])
    assert words in asked(script, 1)
    assert done.verdict is not None and not done.verdict.valid


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("```python\nx = 1\n```", "no ```python block"),
        (
            Completion("```python\ndef denoise(X):\n    retur", "", finish="length", output_tokens=1),
            "cut at the token limit",
        ),
        (fenced("import sys\ndef denoise(X):\n    sys.exit(3)"), "ended with status error"),
        (fenced("def denoise(X):\n    while True: pass"), "ended with status timeout"),
        (fenced("def denoise(X):\n    return X\nimport atexit\natexit.register(print, 'late')"), "printed over"),
        (fenced("def denoise(X):\n    return X\n" + "#" * 100_001), "at most 100000"),
    ],
)
def test_every_reply_of_a_model_is_answered(
    runner: RolloutRunner, full: Task, harness: Harness, reply: str | Completion, words: str, monkeypatch: Any
) -> None:
    files = {**harness.files, "agent.py": harness.files["agent.py"].replace(b"seconds=60.0", b"seconds=2.0")}
    quick = Harness.from_files(files).with_knobs({"attempts": 2})
    done, script = play(runner, full, quick, [reply])
    assert words in asked(script, 1)
    assert done.failure is None and done.verdict is not None and not done.verdict.valid


def test_code_without_a_fence_is_taken_where_it_is_all_there_is(
    runner: RolloutRunner, full: Task, harness: Harness
) -> None:
    done, _ = play(runner, full, harness.with_knobs({"attempts": 1}), [SOUND])
    assert done.verdict is not None and done.verdict.valid


def test_when_the_budget_ends_the_best_so_far_counts(runner: RolloutRunner, full: Task, harness: Harness) -> None:
    toml = harness.files["harness.toml"].replace(b"calls = 8", b"calls = 1")
    done, script = play(
        runner, full, Harness.from_files({**harness.files, "harness.toml": toml}), [fenced(SOUND), fenced(WORSE)]
    )
    assert len(script.requests) == 1
    assert done.verdict is not None and done.verdict.valid


def test_hints_are_shown_when_the_knob_says_so(runner: RolloutRunner, full: Task, harness: Harness) -> None:
    _, plain = play(runner, full, harness.with_knobs({"attempts": 1}), [SOUND])
    _, hinted = play(runner, full, harness.with_knobs({"attempts": 1, "hints": "methods"}), [SOUND])
    assert "principal components" not in asked(plain, 0)
    assert "principal components" in asked(hinted, 0)


def test_inner_trial_is_close_to_the_verdict_on_the_same_part(
    runner: RolloutRunner, full: Task, harness: Harness
) -> None:
    done, _ = play(runner, full, harness.with_knobs({"attempts": 1}), [fenced(SOUND)])
    assert done.verdict is not None
    inner = float(re.findall(r"score ([0-9.]+) \(0 is X", done.notes[0])[0])
    assert inner == pytest.approx(done.verdict.metrics["scaled_mse"], abs=0.05)


@pytest.mark.slow  # a Ray cluster of its own
def test_model_behind_an_endpoint_plays_through_the_engine(full: Task, harness: Harness) -> None:
    ray = pytest.importorskip("ray")
    replies = ["Let me think.", fenced(WORSE), fenced(SOUND)]

    def answer(handler: Any, body: dict[str, Any]) -> None:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        chat(replies[turn])(handler, body)

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with serve() as wire:
            wire.answer = answer
            config = EngineConfig(f"openai:m@{wire.url}/v1", "strict", 1, workers=2)
            with Engine(config, full, lambda _said: None) as engine:
                ids = [problem.id for problem in full.problems("train")[:2]]
                units = [
                    Unit(full.digest, harness.digest, engine.policy.digest, None, "train", one, 0, full.sampling)
                    for one in ids
                ]
                rollouts = list(engine.run(units, harness, None))
            assert all(
                body["max_tokens"] == 6000 or body["max_completion_tokens"] == 6000 for _, _, body in wire.requests
            )
    finally:
        ray.shutdown()
    assert len(rollouts) == 2
    for done in rollouts:
        assert done.answer == {"code": SOUND + "\n"}, done.failure
        assert done.verdict is not None and done.verdict.valid and len(done.turns) == 3

"""Every known cheat is refused with its reason in the real sandbox, and honest programs pass."""

import pytest

from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem, Task
from sia_core.engine.worker import SandboxLab
from tasks.trimul import candidate
from tasks.trimul.programs import EAGER, NAIVE
from tests.tasks.trimul.programs import CHEATS, FAIR, cheat

CLOCKS = "time.perf_counter = time.time = time.process_time = time.monotonic = lambda: 0.0\n"


def verify(task: Task, problem: Problem, code: str, lab: SandboxLab, build: str = "") -> Verdict:
    return task.verify(problem, {"code": code, "build": build}, lab)


@pytest.mark.parametrize("name", FAIR)
def test_honest_program_passes_both_modes(task: Task, problem: Problem, lab: SandboxLab, name: str) -> None:
    verdict = verify(task, problem, FAIR[name], lab)
    assert verdict.valid, verdict.feedback
    assert verdict.score > 0
    assert verdict.metrics["strict_valid"] == verdict.metrics["compat_valid"] == 1.0
    assert verdict.metrics["relative_error"] < 2e-6
    assert verdict.metrics["strict_reward"] == pytest.approx(1500 / verdict.metrics["strict_us"])
    assert verdict.metrics["case0_us_3"] > verdict.metrics["case0_floor_us"] > 0


@pytest.mark.parametrize("name", CHEATS)
def test_cheat_is_refused_with_its_reason(task: Task, problem: Problem, lab: SandboxLab, name: str) -> None:
    code, words = CHEATS[name]
    verdict = verify(task, problem, code, lab)
    assert (verdict.score, verdict.valid) == (0.0, False)
    assert any(word in verdict.feedback for word in words.split("|")), verdict.feedback


@pytest.mark.parametrize(("name", "compat"), [("no mask", 1.0), ("bfloat16", 1.0), ("half of the sum", 0.0)])
def test_cheats_valid_under_published_rules_are_marked(
    task: Task, problem: Problem, lab: SandboxLab, name: str, compat: float
) -> None:
    verdict = verify(task, problem, CHEATS[name][0], lab)
    assert verdict.metrics["compat_valid"] == compat
    assert (verdict.metrics["compat_reward"] > 0) == bool(compat)
    assert verdict.metrics["strict_valid"] == verdict.metrics["strict_reward"] == 0.0


def test_patched_clocks_and_a_busy_thread_win_nothing(task: Task, problem: Problem, lab: SandboxLab) -> None:
    hidden = cheat(
        "out = []\nwork = threading.Thread(target=lambda: out.append([honest(data) for _ in range(40)][-1]))\n"
        "work.start()\nwork.join()\nreturn out[0]",
        CLOCKS,
    )
    slow, fair = (verify(task, problem, code, lab) for code in (hidden, EAGER))
    assert slow.valid and fair.valid
    assert slow.metrics["strict_us"] > 8 * fair.metrics["strict_us"]


def test_work_after_the_answer_is_charged(task: Task, problem: Problem, lab: SandboxLab) -> None:
    """A thread that was started in one call burns CPU in all calls that follow."""
    burner = cheat(
        "if not threading.enumerate()[1:]:\n    threading.Thread(target=burn, daemon=True).start()\n"
        "time.sleep(0.05)\nreturn honest(data)",
        "def burn():\n    while True: pass",
    )
    verdict = verify(task, problem, burner, lab)
    assert verdict.valid and verdict.metrics["strict_us"] > 15_000, verdict


def test_call_that_never_ends_is_stopped(
    task: Task, problem: Problem, lab: SandboxLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate.Runner.call, "__defaults__", (1.0,))
    for body in ("while True: pass", "time.sleep(60)"):
        verdict = verify(task, problem, cheat(body), lab)
        assert not verdict.valid and "timeout" in verdict.feedback, verdict.feedback


def test_loading_that_never_ends_is_stopped(
    task: Task, problem: Problem, lab: SandboxLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "START_S", 1.0)
    verdict = verify(task, problem, "while True: pass", lab)
    assert not verdict.valid and "timeout" in verdict.feedback, verdict.feedback


@pytest.mark.parametrize("answer", [None, 7, [], {}, {"code": ""}, {"code": 3}, {"code": "x" * 200_000}])
def test_answer_of_another_form_is_invalid(task: Task, problem: Problem, lab: SandboxLab, answer: object) -> None:
    assert not task.verify(problem, answer, lab).valid


def test_failed_build_says_so(task: Task, problem: Problem, lab: SandboxLab) -> None:
    verdict = verify(task, problem, NAIVE, lab, build="raise RuntimeError('no compiler')")
    assert (
        not verdict.valid and "build ended with status error" in verdict.feedback and "no compiler" in verdict.feedback
    )


def test_program_is_measured_once_for_a_problem(task: Task, problem: Problem, lab: SandboxLab) -> None:
    assert verify(task, problem, EAGER, lab) == verify(task, problem, EAGER, lab)  # Two measurements never agree.
    again = EAGER + "\n# another text\n"
    assert verify(task, problem, again, lab).metrics != verify(task, problem, EAGER, lab).metrics

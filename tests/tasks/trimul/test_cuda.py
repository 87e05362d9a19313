"""The GPU's clock: its arithmetic here, the rest on a machine with a GPU (run with -m gpu; never run yet)."""

from collections.abc import Iterator

import pytest

from sia_core.domain.errors import SandboxError, UsageError
from sia_core.domain.task import Task
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.worker import SandboxLab
from tasks.trimul import cuda
from tasks.trimul.candidate import Program
from tasks.trimul.cuda import Empty, Spans
from tasks.trimul.programs import EAGER
from tasks.trimul.settings import DEVICE, PLAN, chosen_device, chosen_plan
from tasks.trimul.shapes import Recipe
from tests.tasks.trimul.programs import CHEATS

TRIAL = Spans(preparing=0.010, call=0.0, taking=0.005, events=0.0)
EMPTY = Empty(median=0.0001, spread=0.00002)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        (Spans(0.010, 0.0021, 0.005, 0.00199), 0.00199),  # events that agree with the clock
        (Spans(0.010, 0.0021, 0.005, 0.00001), 0.0020),  # events that were made up
        (Spans(0.010, 0.0021, 0.005, 0.9), 0.0020),
        (Spans(0.012, 0.0002, 0.005, 0.0001), 0.0021),  # work while the inputs were being laid out
        (Spans(0.010, 0.0002, 0.008, 0.0001), 0.0031),  # work while the result was being taken
    ],
)
def test_work_is_charged_wherever_it_hides(spans: Spans, seconds: float) -> None:
    assert spans.charged(TRIAL, EMPTY) == pytest.approx(seconds)


def test_device_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_device() == "cpu"
    monkeypatch.setenv(DEVICE, "cuda")
    assert chosen_device() == "cuda" and chosen_plan() == "ci"
    assert Task.load("trimul").problems("train")[0].id == "cuda-ci-train-00"
    monkeypatch.setenv(DEVICE, "cpu")
    monkeypatch.setenv(PLAN, "official")
    with pytest.raises(UsageError, match="takes a GPU"):
        chosen_plan()
    monkeypatch.setenv(DEVICE, "tpu")
    with pytest.raises(UsageError, match="tpu"):
        chosen_device()


def test_missing_gpu_is_an_error_and_no_score(lab: SandboxLab) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SandboxError, match="no CUDA device"):
        cuda.measure(Program(EAGER), Recipe("cuda", "official", "train", 0), lab)


@pytest.fixture(scope="module")
def open_lab() -> Iterator[SandboxLab]:
    sandbox = open_sandbox("none")
    made = SandboxLab(sandbox)
    yield made
    made.close()
    sandbox.close()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["eager", "no mask", "bfloat16", "cached by shape", "NaN", "input changed"])
def test_cheats_are_refused_and_eager_passes_on_a_gpu(
    open_lab: SandboxLab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(DEVICE, "cuda")
    task = Task.load("trimul")
    code, words = (EAGER, "") if name == "eager" else CHEATS[name]
    verdict = task.verify(task.problems("train")[0], {"code": code}, open_lab)
    assert verdict.valid == (name == "eager"), verdict.feedback
    assert any(word in verdict.feedback for word in words.split("|")), verdict.feedback


@pytest.mark.gpu
def test_side_stream_is_waited_for_and_charged(open_lab: SandboxLab, monkeypatch: pytest.MonkeyPatch) -> None:
    code = EAGER.replace("def custom_kernel", "def honest") + (
        "\n\nSIDE = torch.cuda.Stream()\n\ndef custom_kernel(data):\n"
        "    SIDE.wait_stream(torch.cuda.current_stream())\n"
        "    with torch.cuda.stream(SIDE):\n        return honest(data)\n"
    )
    monkeypatch.setenv(DEVICE, "cuda")
    task = Task.load("trimul")
    fair, side = (task.verify(task.problems("train")[0], {"code": text}, open_lab) for text in (EAGER, code))
    assert fair.valid and (not side.valid or side.score < 1.2 * fair.score)

"""Programs in C++, torch.compile and Triton's interpreter run, or are refused with the reason."""

import importlib.util
import shutil

import pytest

from sia_core.domain.task import Problem, Task
from sia_core.engine.worker import SandboxLab
from tasks.trimul.programs import EAGER

CPP = r"""
extern "C" void contract(const float* left, const float* right, float* out, long batch, long n) {
  for (long b = 0; b < batch; ++b)
    for (long i = 0; i < n; ++i)
      for (long j = 0; j < n; ++j) {
        const float *l = left + (b * n + i) * n, *r = right + (b * n + j) * n;
        float sum = 0;
        for (long k = 0; k < n; ++k) sum += l[k] * r[k];
        out[(b * n + i) * n + j] = sum;
      }
}
"""
BUILD_CPP = f"""
import subprocess
open("contract.cpp", "w").write({CPP!r})
command = ["g++", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "contract.cpp", "-o", "built/contract.so"]
subprocess.run(command, check=True)
"""
CALL_CPP = EAGER.replace("import torch\n", "import ctypes\nimport torch\n", 1).replace(
    'torch.einsum("bikd,bjkd->bijd", left, right)', "contracted(left, right)"
) + (
    '\n\nLIBRARY = ctypes.CDLL("built/contract.so")\n\n'
    "def contracted(left, right):\n"
    "    left, right = (side.permute(0, 3, 1, 2).contiguous() for side in (left, right))\n"
    "    out = torch.empty_like(left)\n"
    "    pointers = [ctypes.c_void_p(each.data_ptr()) for each in (left, right, out)]\n"
    "    b, d, n, _ = out.shape\n"
    "    LIBRARY.contract(*pointers, ctypes.c_long(b * d), ctypes.c_long(n))\n"
    "    return out.permute(0, 2, 3, 1)\n"
)

TRITON = (
    'import os\nos.environ["TRITON_INTERPRET"] = "1"\nimport triton\nimport triton.language as tl\n'
    + EAGER.replace('torch.einsum("bikd,bjkd->bijd", left, right)', "contracted(left, right)")
    + """

@triton.jit
def kernel(left, right, out, n, BLOCK: tl.constexpr):
    batch, i, j = tl.program_id(0), tl.program_id(1) * BLOCK, tl.program_id(2) * BLOCK
    rows, columns = i + tl.arange(0, BLOCK), j + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for k in range(0, n, BLOCK):
        inner = k + tl.arange(0, BLOCK)
        a = tl.load(left + batch * n * n + rows[:, None] * n + inner[None, :],
                    mask=(rows[:, None] < n) & (inner[None, :] < n), other=0.0)
        b = tl.load(right + batch * n * n + columns[None, :] * n + inner[:, None],
                    mask=(columns[None, :] < n) & (inner[:, None] < n), other=0.0)
        total += tl.dot(a, b, input_precision="ieee")
    tl.store(out + batch * n * n + rows[:, None] * n + columns[None, :], total,
             mask=(rows[:, None] < n) & (columns[None, :] < n))


def contracted(left, right):
    left, right = (side.permute(0, 3, 1, 2).contiguous() for side in (left, right))
    out = torch.empty_like(left)
    b, d, n, _ = out.shape
    blocks = triton.cdiv(n, 64)
    kernel[(b * d, blocks, blocks)](left, right, out, n, BLOCK=64)
    return out.permute(0, 2, 3, 1)
"""
)

COMPILE = EAGER.replace("def custom_kernel", "def eager") + "\n\ncustom_kernel = torch.compile(eager)\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")
def test_cpp_is_built_with_a_compiler_and_timed_without(task: Task, problem: Problem, lab: SandboxLab) -> None:
    verdict = task.verify(problem, {"code": CALL_CPP, "build": BUILD_CPP}, lab)
    assert verdict.valid and verdict.score > 0, verdict.feedback


def test_timed_program_cannot_compile(task: Task, problem: Problem, lab: SandboxLab) -> None:
    verdict = task.verify(problem, {"code": CALL_CPP.replace("LIBRARY =", f"{BUILD_CPP}\nLIBRARY =")}, lab)
    assert not verdict.valid and "not permitted" in verdict.feedback, verdict.feedback


@pytest.mark.slow
def test_torch_compile_needs_a_compiler_where_there_is_none(task: Task, problem: Problem, lab: SandboxLab) -> None:
    verdict = task.verify(problem, {"code": COMPILE}, lab)
    assert not verdict.valid, "it runs: let docs and task.md say so"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_is_right_in_its_interpreter(task: Task, problem: Problem, lab: SandboxLab) -> None:
    verdict = task.verify(problem, {"code": TRITON}, lab)
    assert verdict.valid, verdict.feedback
    assert verdict.metrics["relative_error"] < 1e-5

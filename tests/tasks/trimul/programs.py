"""Answers: honest programs, and every known cheat on time or error, with words of the reason."""

from tasks.trimul.programs import EAGER, NAIVE

HONEST = EAGER.replace("def custom_kernel", "def honest")
"""Defines honest(data) for a cheat to lean on."""

THREADS = NAIVE.replace(
    "import torch\n", "import torch\nfrom concurrent.futures import ThreadPoolExecutor\n", 1
).replace(
    "    for i in range(n):\n        out[:, i] = (left[:, i, None] * right).sum(2)\n",
    "    def row(i):\n        out[:, i] = (left[:, i, None] * right).sum(2)\n"
    "    with ThreadPoolExecutor(4) as pool:\n        list(pool.map(row, range(n)))\n",
)
BATCHED = EAGER.replace(
    'torch.einsum("bikd,bjkd->bijd", left, right)',
    "torch.matmul(left.permute(0, 3, 1, 2), right.permute(0, 3, 2, 1)).permute(0, 2, 3, 1).contiguous()",
)

FAIR: dict[str, str] = {"the naive loop": NAIVE, "one einsum": EAGER, "batched": BATCHED, "joined threads": THREADS}


def cheat(body: str, before: str = "") -> str:
    """A program whose custom_kernel has this body, with honest(data) at hand."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f"{HONEST}\n\nimport os, time, threading, ctypes, sys\n{before}\n\ndef custom_kernel(data):\n{lines}\n"


def cached(key: str) -> str:
    """A program that repeats its answer to the same key."""
    return cheat(
        f"key = {key}\nif key not in KEPT:\n    KEPT[key] = honest(data)\nreturn KEPT[key].clone()", "KEPT = {}"
    )


CUT = """

def cut(x):
    return (x.contiguous().view(torch.int32) & -8192).view(torch.float32)
"""
"""Keeps 10 bits of the mantissa, as TF32 and float16 do; float16 itself needs /proc/cpuinfo, which no sandbox has."""

CHEATS: dict[str, tuple[str, str]] = {
    "cached by shape": (cached("tuple(data[0].shape)"), "wrong result"),
    "cached by pointer and shape": (cached("(data[0].data_ptr(), data[0].shape)"), "wrong result"),
    "cached by the mask": (cached("(tuple(data[1].shape), float(data[1].mean()))"), "wrong result"),
    "memory never written": (cheat("return torch.empty_like(data[0])"), "wrong result|NaN"),
    "half of it written": (
        cheat("y = honest(data)\nz = torch.empty_like(y)\nz[:, ::2] = y[:, ::2]\nreturn z"),
        "wrong|NaN",
    ),
    "a result that is never copied out": (cheat("torch.Tensor.copy_ = lambda *_: None\nreturn honest(data)"), "NaN"),
    "a thread that works later": (
        cheat(
            "y = torch.zeros_like(data[0])\ncopies = (data[0].clone(), data[1].clone(), dict(data[2]), data[3])\n"
            "def work():\n    time.sleep(0.2)\n    y.copy_(honest(copies))\n"
            "threading.Thread(target=work, daemon=True).start()\nreturn y"
        ),
        "wrong result",
    ),
    "a lazy subclass": (
        cheat(
            "y = torch.empty_like(data[0]).as_subclass(Lazy)\ny.data_ = data\nreturn y",
            "class Lazy(torch.Tensor):\n    pass",
        ),
        "Lazy, not a plain torch.Tensor",
    ),
    "fork and wait": (cheat("if os.fork() == 0:\n    os._exit(0)\nreturn honest(data)"), "Operation not permitted"),
    "another program": (cheat("import subprocess\nsubprocess.run(['true'])\nreturn honest(data)"), "not permitted"),
    "a patched comparison": (
        cheat(
            "return torch.zeros_like(data[0])", "torch.allclose = lambda *a, **k: True\ntorch.equal = torch.allclose"
        ),
        "wrong result",
    ),
    "a message ahead of the result": (
        cheat("os.write(int(os.environ['SIA_STREAM']), bytes(4))\ntime.sleep(0.2)\nreturn honest(data)"),
        "NaN",
    ),
    "input changed": (cheat("y = honest(data)\ndata[0].zero_()\nreturn y"), "changed its input x"),
    "weights changed": (cheat("y = honest(data)\ndata[2]['norm.bias'].add_(1)\nreturn y"), "changed its input"),
    "bfloat16": (EAGER.replace("left, right)", "left.bfloat16(), right.bfloat16()).float()"), "precision"),
    "TF32": (EAGER.replace("left, right)", "cut(left), cut(right))") + CUT, "precision"),
    "half of the sum": (EAGER.replace("left, right)", "left[:, :, ::2], right[:, :, ::2]) * 2"), "wrong result"),
    "no mask": (EAGER.replace("mask[..., None]", "1.0"), "wrong result"),
    "known shapes only": (
        cheat("return honest(data) if data[0].shape[1] in (32, 48) else torch.zeros_like(data[0])"),
        "wrong result",
    ),
    "known seeds only": (
        cheat(
            "for seed in range(64):\n    torch.manual_seed(seed)\n"
            "    if torch.equal(torch.randn(data[0].shape), data[0]):\n        return honest(data)\n"
            "return torch.zeros_like(data[0])"
        ),
        "wrong result",
    ),
    "the verifier's own code": (cheat("from tasks.trimul.reference import expected"), "ModuleNotFoundError"),
    "shared memory cut": (cheat("os.ftruncate(0, 0)\nreturn honest(data)"), "not permitted"),
    "NaN": (cheat("return honest(data) * float('nan')"), "NaN or infinite"),
    "infinity": (cheat("y = honest(data)\ny[0, 0, 0, 0] = float('inf')\nreturn y"), "NaN or infinite"),
    "float64": (cheat("return honest(data).double()"), "float64, not float32"),
    "another shape": (cheat("return honest(data)[..., None]"), "has shape"),
    "strides": (cheat("return honest(data).transpose(1, 2).contiguous().transpose(1, 2)"), "has strides"),
    "one number, expanded": (cheat("return torch.zeros(1).expand_as(data[0])"), "has strides"),
    "a list": (cheat("return honest(data).tolist()"), "a list, not"),
    "nothing": (cheat("return None"), "a NoneType, not"),
    "sparse": (cheat("return honest(data).to_sparse()"), "as torch.sparse"),
    "the input handed back": (cheat("return data[0].copy_(honest(data))"), "in the memory of the inputs"),
    "a huge result": (cheat("return torch.ones(1 << 44)"), "memory|allocate"),
    "much memory": (cheat("x = torch.ones(1 << 33)\nreturn honest(data)"), "memory|allocate"),
    "much output": (cheat("while True: print('x' * 1000, flush=True)"), "wrote more than"),
    "a huge message": (cheat("os.write(int(os.environ['SIA_STREAM']), b'\\xff' * 4)\ntime.sleep(9)"), "message of"),
    "leaves": (cheat("os._exit(0)"), "ended"),
    "a crash": (cheat("ctypes.string_at(0)"), "SIGSEGV"),
    "an exception": (cheat("raise ValueError('no')"), "ValueError: no"),
    "an exit": (cheat("sys.exit(3)"), "SystemExit"),
    "no function": ("x = 1", "KeyError: 'custom_kernel'"),
    "no Python": ("def", "SyntaxError"),
}
"""Name -> (code, words of the reason, of which any may occur)."""

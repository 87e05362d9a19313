"""Run inside the sandbox beside the candidate: map the memory, call `custom_kernel`, copy its result.

driver_cuda.py is the same for a GPU, and uses the functions of this one.

Not trusted: it shares an interpreter with the candidate, which may change it at will. Its checks give a fair
program a clear reason; what holds is what the verifier sees from outside, bytes and CPU time.
"""

import json
import math
import mmap
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import torch

_SAID = 300
_PLAIN_FILES: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python has it since 3.11.4. What protects is the sandbox, which this runs in."""


def main() -> None:
    """Serve calls until the stream ends."""
    stream = socket.socket(fileno=int(os.environ["SIA_STREAM"]))
    memory = mmap.mmap(0, os.fstat(0).st_size)
    cells = torch.frombuffer(memory, dtype=torch.float32)
    kernel = load(stream)
    while kernel is not None and (frame := read(stream)):
        try:
            result = call(kernel, cells, json.loads(frame))
        except BaseException as error:  # noqa: BLE001 - the candidate's own, whatever it is
            result = f"{type(error).__name__}: {error}"
        say(stream, result)


def load(stream: socket.socket) -> Any:
    """The candidate's function, or None when there is none; either is told."""
    try:
        if Path("built.tar").exists():
            with tarfile.open("built.tar") as archive:
                archive.extractall("built", **_PLAIN_FILES)
        space: dict[str, Any] = {"__name__": "candidate", "__file__": "candidate.py"}
        source = Path("candidate.py").read_text(encoding="utf-8")
        exec(compile(source, "candidate.py", "exec"), space)  # noqa: S102 - this is what the sandbox is for
        kernel = space["custom_kernel"]
    except BaseException as error:  # noqa: BLE001 - as above
        say(stream, f"candidate.py: {type(error).__name__}: {error}")
        return None
    say(stream, "")
    return kernel


def call(kernel: Any, cells: torch.Tensor, where: dict[str, Any]) -> str:
    """Call the kernel and copy its result out; return the error in the result, or an empty string if it was copied."""
    arrays = {
        name: cells[start : start + math.prod(shape)].view(shape) for name, (start, shape) in where["arrays"].items()
    }
    target = arrays.pop("out")
    x, mask = arrays.pop("x"), arrays.pop("mask")
    out = kernel((x, mask, arrays, {"dim": x.shape[-1], "hidden_dim": arrays["to_out.weight"].shape[1]}))
    wrong = _wrong(out, target, cells)
    if not wrong:
        target.copy_(out)
    return wrong


def _wrong(out: Any, target: torch.Tensor, cells: torch.Tensor) -> str:
    if type(out) is not torch.Tensor:
        return f"the result is a {type(out).__name__}, not a plain torch.Tensor"
    if out.shape != target.shape:
        return f"the result has shape {list(out.shape)[:8]}, not {list(target.shape)}"
    if out.dtype != torch.float32:
        return f"the result is of {out.dtype}, not float32"
    if out.device != target.device or out.layout != torch.strided:
        return f"the result lies on {out.device} as {out.layout}"
    if not out.is_contiguous():
        return f"the result has strides {list(out.stride())}: it has to be contiguous"
    if out.untyped_storage().data_ptr() == cells.untyped_storage().data_ptr():
        return "the result lies in the memory of the inputs"
    return ""


def read(stream: socket.socket) -> bytes:
    """The next frame; empty at the end."""
    size = int.from_bytes(_exactly(stream, 4), "big")
    return _exactly(stream, size)


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = stream.recv(size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def say(stream: socket.socket, text: str) -> None:
    """Send one frame of text, cut short."""
    data = text[:_SAID].encode(errors="replace")
    stream.sendall(len(data).to_bytes(4, "big") + data)


if __name__ == "__main__":
    main()

"""A vLLM server of the run: `vllm serve` on a GPU, which ends with the policy's Ray actor.

    python -m sia_core.engine.vllm_server LOG COMMAND...     runs COMMAND until it ends or standard input closes

The server listens on the loopback of the actor's machine, with a random key in the environment, because
every user can read a command line. Between actor and server runs the guard above, which holds the other end
of a pipe: when the actor dies in any way, the pipe closes, and the guard ends the server with all its
children. The guard is not a child of the actor's process, because Ray kills the actor's children.

| variable | meaning | default |
|---|---|---|
| SIA_VLLM | program | `vllm` |
| SIA_VLLM_GPUS | GPUs over which one copy of the model is spread; 0 for a vLLM built for the CPU | 1 |
| SIA_VLLM_ARGS | further arguments of `vllm serve`, which override earlier ones | |

The precision is chosen so that the served adapter is the trained one (docs/policies.md): float32 on a CPU. On GPUs
vLLM's LoRA kernels take 16 bits only, and float16 keeps three bits more of each number than bfloat16.

Run with vLLM 0.32.0 on a CPU (`tests/servers`), never with a GPU.
"""

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from sia_core.domain.errors import PolicyError, UsageError
from sia_core.engine.vllm_program import cache_bytes, cause, serve_words
from sia_core.policy.protocol import EndpointError
from sia_core.policy.spec import require_program, server_program
from sia_core.policy.vllm_adapters import ADAPTERS_KEPT
from sia_core.policy.vllm_wire import RANKS

HOST: Final = "127.0.0.1"
_REPLICAS = ("--data-parallel", "-dp", "--api-server-count")
_GRACE_S = 10.0


@dataclass(frozen=True)
class ServerOptions:
    """Options of the server."""

    gpus: int = 1
    """GPUs over which one copy of the model is spread; 0 for vLLM on the CPU."""
    rank: int = 32
    """Highest rank of an adapter."""
    adapters: int = ADAPTERS_KEPT
    """Adapters in one batch, and in memory."""
    context: int | None = None
    """Tokens of prompt and reply together; the model's own limit when None."""
    memory: float = 0.9
    """Share of each GPU's memory."""
    cache_bytes: int | None = None
    """Bytes for the keys and values of prompts on a CPU; None for a share of the free memory."""
    start_s: float = 900.0
    """Wait limit in seconds for a healthy server, which has to read weights and compile kernels."""
    executable: tuple[str, ...] = ("vllm",)
    extra: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""


def read_options(rank: int) -> ServerOptions:
    """Read the options from the environment, for adapters up to `rank`.

    Raises:
        UsageError: an invalid environment variable.
    """
    gpus = os.environ.get("SIA_VLLM_GPUS", "1")
    if not re.fullmatch(r"\d{1,2}", gpus):
        raise UsageError(f"{gpus!r} is not a number of GPUs", where="SIA_VLLM_GPUS", hint="use 1, 2, 4 or 8")
    return ServerOptions(
        gpus=int(gpus),
        rank=max(rank, ServerOptions.rank),
        executable=server_program(),
        extra=tuple(shlex.split(os.environ.get("SIA_VLLM_ARGS", ""))),
    )


def build_command(model: Path, port: int, options: ServerOptions) -> list[str]:
    """Build the command line of the server.

    Raises:
        UsageError: replicas, of which a new adapter may reach only one, or an adapter of too high a rank.
    """
    if any(argument.startswith(_REPLICAS) for argument in options.extra):
        what, hint = "one server cannot have replicas", "start several servers, each for its own run"
        raise UsageError(what, where="vllm", hint=hint)
    if options.rank > RANKS[-1]:
        raise UsageError(f"rank {options.rank} is above {RANKS[-1]}", where="vllm", hint="train with a lower rank")
    command = [*serve_words(options.executable, model), "--host", HOST, "--port", str(port)]
    # The first option applies the temperature to logprobs; the second disables the model's own top-p and top-k.
    command += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    command += ["--enable-lora", "--max-lora-rank", str(min(rank for rank in RANKS if rank >= options.rank))]
    command += ["--max-loras", str(options.adapters), "--max-cpu-loras", str(options.adapters)]
    if options.gpus:
        command += ["--tensor-parallel-size", str(options.gpus), "--gpu-memory-utilization", str(options.memory)]
        command += ["--dtype", "float16"]
    else:
        # By default vLLM takes nine tenths of the machine's memory.
        command += ["--kv-cache-memory-bytes", str(options.cache_bytes or cache_bytes())]
        command += ["--dtype", "float32"]
    if options.context is not None:
        command += ["--max-model-len", str(options.context)]
    return [*command, *options.extra]


@dataclass
class VllmServer:
    """Process of the server: call `start`, use `url` and `key`, call `stop`."""

    model: Path
    options: ServerOptions
    log: Path
    """File for the server's output."""
    key: str = field(repr=False)
    url: str = ""
    _guard: "subprocess.Popen[bytes] | None" = None

    def start(self) -> str:
        """Start the server and wait until it is healthy; return its base URL.

        Raises:
            PolicyError: vLLM is not installed, or the server ended, with the end of its log.
            EndpointError: the server was not healthy in time.
        """
        require_program(self.options.executable, "vllm")
        port = _free_port()
        command = build_command(self.model, port, self.options)
        environment = {
            **os.environ,
            "VLLM_API_KEY": self.key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self._guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "sia_core.engine.vllm_server", str(self.log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # An interrupt from the terminal must not reach the guard.
        )
        self._guard.wait()  # The started process only forks the guard.
        self._wait(f"http://{HOST}:{port}/health")
        self.url = f"http://{HOST}:{port}/v1"
        return self.url

    def alive(self) -> bool:
        """Return True if the server's process runs: the guard's output ends with that process."""
        output = None if self._guard is None else self._guard.stdout
        return output is not None and not select.select([output], [], [], 0)[0]

    def stop(self) -> None:
        """End the server with all its children. Idempotent."""
        if self._guard is not None and self._guard.stdin is not None and self._guard.stdout is not None:
            self._guard.stdin.close()
            self._guard.stdout.read()

    def _wait(self, health: str) -> None:
        deadline = time.monotonic() + self.options.start_s
        while not _healthy(health):
            if not self.alive():
                what = f"the server ended: {self.last_words()}"
                hint = f"read {self.log}; SIA_VLLM_ARGS changes the server's options"
                raise PolicyError(what, where=" ".join(self.options.executable), hint=hint)
            if time.monotonic() > deadline:
                self.stop()
                what = f"the server was not healthy within {self.options.start_s:g} s: {self.last_words()}"
                raise EndpointError(what, where=" ".join(self.options.executable), hint=f"read {self.log}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """Return the cause of the server's end from its log, else the end of the log, without the key."""
        return cause(self.log.read_text(errors="replace").replace(self.key, "[key]"))


def guard(log: Path, command: list[str], until_closed: IO[bytes]) -> None:
    """Run `command` in its own session; end it when the stream closes."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )

    def watch() -> None:
        while until_closed.read(1):
            pass
        _end(process)

    # In a thread, because this one waits for the process.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_end, args=(process,)).start())
    threading.Thread(target=watch, daemon=True).start()
    process.wait()
    _kill(process, signal.SIGKILL)  # Children that outlived it hold the GPU.


def _end(process: "subprocess.Popen[bytes]") -> None:
    _kill(process, signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(process, signal.SIGKILL)


def _kill(process: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _healthy(url: str) -> bool:
    # No proxy for the loopback, even if the environment names one.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    if os.fork() == 0:
        guard(Path(sys.argv[1]), sys.argv[2:], sys.stdin.buffer)

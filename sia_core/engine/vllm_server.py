"""A vLLM server of our own: `vllm serve` on a GPU, held by the policy's Ray actor, gone when the actor is.

    python -m sia_core.engine.vllm_server LOG COMMAND...     runs COMMAND until it ends or standard input closes

The server listens on the loopback of the actor's machine, with a random key that is passed in the
environment: a command line is readable for every user. Between actor and server stands the guard above, which
holds the other end of a pipe: however the actor dies, the pipe closes, and the guard ends the server with
all its children. The guard is no child of the actor's process, whose children Ray kills without asking.

SIA_VLLM names the program (`vllm`), SIA_VLLM_GPUS how many GPUs one copy of the model is spread over (1; 0 for
a vLLM that was built for the CPU), SIA_VLLM_ARGS further arguments of `vllm serve`, of which the last one counts.

Never run with a GPU or with vLLM itself: the tests run a program in its place. The options are those of vLLM 0.32.0.
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
from sia_core.policy.protocol import EndpointError
from sia_core.policy.spec import require_program, server_program
from sia_core.policy.vllm_adapters import ADAPTERS_KEPT
from sia_core.policy.vllm_wire import RANKS

HOST: Final = "127.0.0.1"
_REPLICAS = ("--data-parallel", "-dp", "--api-server-count")
_LOG_TAIL = 800
_GRACE_S = 10.0


@dataclass(frozen=True)
class ServerOptions:
    """How the server is started."""

    gpus: int = 1
    """GPUs that one copy of the model is spread over. 0: vLLM on the CPU."""
    rank: int = 32
    """Highest rank of an adapter."""
    adapters: int = ADAPTERS_KEPT
    """Adapters in one batch, and in memory."""
    context: int | None = None
    """Tokens of prompt and reply together; the model's own limit when None."""
    memory: float = 0.9
    """Share of each GPU's memory."""
    start_s: float = 900.0
    """Patience until it is healthy: weights are read, kernels compiled."""
    executable: tuple[str, ...] = ("vllm",)
    extra: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""


def read_options(rank: int) -> ServerOptions:
    """Options as the environment has them, for adapters up to `rank`.

    Raises:
        UsageError: an environment that cannot be meant.
    """
    gpus = os.environ.get("SIA_VLLM_GPUS", "1")
    if not re.fullmatch(r"\d{1,2}", gpus):
        raise UsageError(f"{gpus!r} is no number of GPUs", where="SIA_VLLM_GPUS", hint="use 1, 2, 4 or 8")
    return ServerOptions(
        gpus=int(gpus),
        rank=max(rank, ServerOptions.rank),
        executable=server_program(),
        extra=tuple(shlex.split(os.environ.get("SIA_VLLM_ARGS", ""))),
    )


def build_command(model: Path, port: int, options: ServerOptions) -> list[str]:
    """The command line of the server.

    Raises:
        UsageError: replicas, of which a new adapter may reach only one; or an adapter of too high a rank.
    """
    if any(argument.startswith(_REPLICAS) for argument in options.extra):
        what, hint = "one server cannot have replicas", "start several servers, each for a run of its own"
        raise UsageError(what, where="vllm", hint=hint)
    if options.rank > RANKS[-1]:
        raise UsageError(f"rank {options.rank} is above {RANKS[-1]}", where="vllm", hint="train with a lower rank")
    command = [*options.executable, "serve", str(model), "--host", HOST, "--port", str(port)]
    # Without this one, logprobs leave the temperature out. The next keeps the model's own top-p and top-k off.
    command += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    command += ["--enable-lora", "--max-lora-rank", str(min(rank for rank in RANKS if rank >= options.rank))]
    command += ["--max-loras", str(options.adapters), "--max-cpu-loras", str(options.adapters)]
    if options.gpus:
        command += ["--tensor-parallel-size", str(options.gpus), "--gpu-memory-utilization", str(options.memory)]
    if options.context is not None:
        command += ["--max-model-len", str(options.context)]
    return [*command, *options.extra]


@dataclass
class VllmServer:
    """The server's process. `start` it, use `url` and `key`, `stop` it."""

    model: Path
    options: ServerOptions
    log: Path
    """Where its output goes."""
    key: str = field(repr=False)
    url: str = ""
    _guard: "subprocess.Popen[bytes] | None" = None

    def start(self) -> str:
        """Start it and wait until it is healthy. Its base URL.

        Raises:
            PolicyError: it is not installed, or ended; with the last it said.
            EndpointError: it was not healthy in time.
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
            start_new_session=True,  # An interrupt from the terminal is not for the guard.
        )
        self._guard.wait()  # What was started only forks the guard.
        self._wait(f"http://{HOST}:{port}/health")
        self.url = f"http://{HOST}:{port}/v1"
        return self.url

    def alive(self) -> bool:
        """Return True if the server's process runs: the guard's output ends with that process."""
        output = None if self._guard is None else self._guard.stdout
        return output is not None and not select.select([output], [], [], 0)[0]

    def stop(self) -> None:
        """End it, with all its children; fine when it has ended."""
        if self._guard is not None and self._guard.stdin is not None and self._guard.stdout is not None:
            self._guard.stdin.close()
            self._guard.stdout.read()

    def _wait(self, health: str) -> None:
        deadline = time.monotonic() + self.options.start_s
        while not _healthy(health):
            if not self.alive():
                what = f"the server ended: {self.last_words()}"
                raise PolicyError(what, where=" ".join(self.options.executable), hint=f"read {self.log}")
            if time.monotonic() > deadline:
                self.stop()
                what = f"the server was not healthy within {self.options.start_s:g} s: {self.last_words()}"
                raise EndpointError(what, where=" ".join(self.options.executable), hint=f"read {self.log}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """The end of its log, without the key."""
        text = self.log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").replace(self.key, "[key]")
        return text.strip() or "it said nothing"


def guard(log: Path, command: list[str], until_closed: IO[bytes]) -> None:
    """Run `command` in a session of its own; end it when the stream closes."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )

    def watch() -> None:
        while until_closed.read(1):
            pass
        _end(process)

    # In a thread: here the process is being waited for.
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
    # No proxy stands before the loopback, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    if os.fork() == 0:
        guard(Path(sys.argv[1]), sys.argv[2:], sys.stdin.buffer)

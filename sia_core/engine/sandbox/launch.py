"""Start and end one zygote process, and report why it did not start.

The kernel ties a zygote to the *thread* that started it, and callers may be short-lived pool threads.
So each zygote has its own thread, which starts it and lives exactly as long.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from sia_core.domain.errors import SandboxError
from sia_core.engine.sandbox import interpreter, seccomp
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.inside.rollout import BOX
from sia_core.engine.sandbox.protocol import Tier

_START_S = 60.0
_STOP_S = 1.0
_ERROR_BYTES = 4000
_THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PROGRAM_ENVIRONMENT = {"HOME": BOX, "TMPDIR": BOX, "LANG": "C.UTF-8", **dict.fromkeys(_THREAD_LIMITS, "1")}
"""A program's whole environment, except SIA_STREAM."""

# The zygote's whole environment. Fixed hash seed: the same program gives the same output in every
# worker. One malloc arena: each further one reserves 128 MB of a program's address space.
_ZYGOTE_ENVIRONMENT = {**PROGRAM_ENVIRONMENT, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1"}


class Launcher(Protocol):
    """Starts the zygote of a tier."""

    @property
    def tier(self) -> Tier: ...

    @property
    def gentle(self) -> bool:
        """True if the process must be asked to end, because it ends others itself."""

    def command(self, control: int, config: int) -> list[str]: ...

    def settings(self) -> dict[str, Any]: ...

    def hint(self, line: str) -> str: ...


class Zygote:
    """A running zygote. Raises SandboxError when it cannot be started."""

    def __init__(self, launcher: Launcher, modules: Sequence[str]) -> None:
        config = _config(launcher, modules)
        errors = os.memfd_create("errors")
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.folder = ""
        """Parent of programs' private directories."""
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._failure = ""
        command = launcher.command(theirs.fileno(), config)
        self._thread = threading.Thread(
            target=self._own, args=(command, (theirs.fileno(), config), errors), name="sandbox-zygote", daemon=True
        )
        self._thread.start()
        self._started.wait()
        theirs.close()
        os.close(config)
        try:
            self.landlock, self.folder = self._handshake(errors)
        finally:
            os.close(errors)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def pid(self) -> int:
        """Process id of the zygote's outermost process, in the supervisor's namespace."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End every process of the zygote, and remove its files. Idempotent."""
        self.control.close()  # ends an idle zygote
        self._thread.join(_STOP_S)
        if self._process is not None and self._thread.is_alive() and self._launcher.gentle:
            self._process.terminate()
            self._thread.join(_STOP_S)
        if self._process is not None and self._thread.is_alive():
            self._process.kill()
            self._thread.join()
        if self.folder and self._launcher.gentle:
            with contextlib.suppress(OSError):
                tree.remove(self.folder)

    def _own(self, command: list[str], inherited: tuple[int, ...], errors: int) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=inherited,
                cwd="/",
                env=_ZYGOTE_ENVIRONMENT,
            )
        except OSError as error:
            self._failure = str(error)
        finally:
            self._started.set()
        if self._process is not None:
            self._process.wait()

    def _handshake(self, errors: int) -> tuple[int, str]:
        """Wait until the zygote has imported everything; return its Landlock version and its folder."""
        self.control.settimeout(_START_S)
        try:
            message = self.control.recv(4096)
            if message:
                self.control.settimeout(None)
                answer = json.loads(message)
                return int(answer["landlock"]), str(answer["folder"])
        except OSError as error:
            self._failure = self._failure or f"no answer in {_START_S:.0f} s ({error})"
        self.stop()
        text = os.pread(errors, _ERROR_BYTES, max(0, os.fstat(errors).st_size - _ERROR_BYTES)).decode(errors="replace")
        raise _cannot_start(self._launcher, self._failure or text.strip() or "it ended without an error message")


def _config(launcher: Launcher, modules: Sequence[str]) -> int:
    """Create a memory file with the zygote's settings and the seccomp filters, positioned at its start."""
    settings = launcher.settings()
    shared = not settings["namespaces"]
    filters = seccomp.shared() if shared else seccomp.private()
    bpf = (filters.zygote, filters.alone, filters.family)
    settings |= {
        "modules": list(modules),
        "path": interpreter.extra_paths(),
        "environment": PROGRAM_ENVIRONMENT,
        "filter_bytes": list(map(len, bpf)),
        "own_pid": seccomp.OWN_PID if shared else 0,
    }
    return memory_file(json.dumps(settings).encode() + b"\n", *bpf)


def memory_file(*parts: bytes) -> int:
    """Create an anonymous file that holds `parts`, positioned at its start."""
    fd = os.memfd_create("sia")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.writelines(parts)
    except BaseException:
        os.close(fd)
        raise
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _cannot_start(launcher: Launcher, text: str) -> SandboxError:
    last = text.splitlines()[-1]
    hint = launcher.hint(last)
    if "ModuleNotFoundError" in last or "ImportError" in last:
        hint = "install that module, or leave it out of the modules to import in advance"
    return SandboxError(f"the sandbox cannot start: {last}", where=f"sandbox tier {launcher.tier}", hint=hint)

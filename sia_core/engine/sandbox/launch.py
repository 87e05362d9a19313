"""Owns one zygote process: starts it from a thread of its own, ends it, says why it would not start.

The kernel ties a zygote to the *thread* that started it, and callers may be pool threads that come
and go. So a thread is made for each zygote, starts it, and lives exactly as long as it.
"""

import json
import os
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.engine.sandbox import bubblewrap, seccomp
from sia_core.errors import SandboxError

_START_S = 60.0
_STOP_S = 1.0
_ERROR_BYTES = 4000
_THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PROGRAM_ENVIRONMENT = {"HOME": "/box", "TMPDIR": "/box", "LANG": "C.UTF-8", **dict.fromkeys(_THREAD_LIMITS, "1")}
"""Everything that a program finds in its environment, but for SIA_STREAM."""

# The zygote's whole environment. Fixed hash seed: the same program gives the same output in every
# worker. One malloc arena: each further one reserves 128 MB of a program's address space.
_ZYGOTE_ENVIRONMENT = {**PROGRAM_ENVIRONMENT, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class ZygoteSpec:
    """What a zygote is made from."""

    bwrap: str
    modules: tuple[str, ...]
    sdk: Path | None


class Zygote:
    """A running zygote. Raises SandboxError when it cannot be started."""

    def __init__(self, spec: ZygoteSpec) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = _config(spec)
        errors = os.memfd_create("errors")
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._failure = ""
        command = bubblewrap.command(spec.bwrap, theirs.fileno(), config, spec.sdk)
        self._thread = threading.Thread(
            target=self._own, args=(command, (theirs.fileno(), config), errors), name="sandbox-zygote", daemon=True
        )
        self._thread.start()
        self._started.wait()
        theirs.close()
        os.close(config)
        try:
            self.landlock = self._handshake(errors)
        finally:
            os.close(errors)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def pid(self) -> int:
        """Process id of bubblewrap, in the supervisor's namespace."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End every process of the zygote. Idempotent."""
        self.control.close()  # an idle zygote ends by itself at this
        self._thread.join(_STOP_S)
        if self._process is not None and self._thread.is_alive():
            self._process.kill()
            self._thread.join()

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

    def _handshake(self, errors: int) -> int:
        """Wait until the zygote has imported everything; return its Landlock version."""
        self.control.settimeout(_START_S)
        try:
            message = self.control.recv(4096)
            if message:
                self.control.settimeout(None)
                return int(json.loads(message)["landlock"])
        except OSError as error:
            self._failure = self._failure or f"no answer in {_START_S:.0f} s ({error})"
        self.stop()
        text = os.pread(errors, _ERROR_BYTES, max(0, os.fstat(errors).st_size - _ERROR_BYTES)).decode(errors="replace")
        raise _cannot_start(self._failure or text.strip() or "it ended without a word")


def _config(spec: ZygoteSpec) -> int:
    """A memory file with the zygote's settings and the seccomp filter, at its start."""
    settings: dict[str, Any] = {
        "modules": spec.modules,
        "sdk": [bubblewrap.SDK_INSIDE] if spec.sdk else [],
        "path": bubblewrap.extra_paths(),
        "uid": bubblewrap.ROOTLESS_UID if os.geteuid() == 0 else None,
        "environment": PROGRAM_ENVIRONMENT,
    }
    return memory_file(json.dumps(settings).encode() + b"\n" + seccomp.program())


def memory_file(*parts: bytes) -> int:
    """A new anonymous file that holds `parts`, positioned at its start."""
    fd = os.memfd_create("sia")
    with open(fd, "wb", closefd=False) as file:
        file.writelines(parts)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _cannot_start(text: str) -> SandboxError:
    last = text.splitlines()[-1]
    return SandboxError(f"the sandbox cannot start: {last}", where="sandbox tier strict", hint=_hint(last))


def _hint(line: str) -> str:
    if "ModuleNotFoundError" in line or "ImportError" in line:
        return "install that module, or leave it out of the modules to import in advance"
    if "amespace" in line or "Operation not permitted" in line or "Permission denied" in line:
        return (
            "allow user namespaces: `sysctl -w user.max_user_namespaces=15000`; on Debian also "
            "`kernel.unprivileged_userns_clone=1`, on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`; "
            "in a container, run it with a seccomp profile that allows unshare and mount"
        )
    return "run `bwrap --ro-bind / / true` to see whether bubblewrap works on this machine"

"""A running jail, and the detection of its end.

bubblewrap reports the id of the first process in the jail's process namespace. When the first process has ended, the
kernel has killed and collected all others.
"""

import json
import os
import select
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sia_core.domain.errors import SandboxError
from sia_core.engine.jail.watch import Tail, kill

_START_S = 30.0
LOOK_S = 0.1


def ready(fds: Sequence[int], seconds: float) -> list[int]:
    """Return the descriptors that can be read or have ended; wait at most `seconds` for the first one."""
    poll = select.poll()  # `select.select` takes no descriptor above 1023.
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(1000 * seconds)]


@dataclass
class Started:
    """A running jail."""

    process: subprocess.Popen[bytes]
    """bubblewrap's outer process."""
    out: Tail
    errors: Tail
    first: int = -1
    """Descriptor of the process that ends after all others; -1 if it has ended already."""

    def gone(self, seconds: float) -> bool:
        """Return True if no process of the jail is alive; wait at most `seconds` for the end."""
        if self.first < 0:
            return True
        return bool(ready([self.first], seconds))

    def close(self) -> None:
        """End the jail, and close the descriptor."""
        self.end()
        if self.first >= 0:
            os.close(self.first)
            self.first = -1

    def end(self) -> None:
        """Kill all processes, and wait for their end. Idempotent."""
        if self.first >= 0:
            kill(self.first)
            while not self.gone(LOOK_S):
                pass
        else:
            self.process.kill()
        self.process.wait()


class Nothing:
    """Result for a jail that did not start."""


NOTHING = Nothing()


def first_process(info: BinaryIO) -> int:
    """Return a descriptor of the jail's first process, as reported by bubblewrap; -1 if it has ended."""
    data = b""
    while not data.rstrip().endswith(b"}"):
        if not ready([info.fileno()], _START_S):
            return -1
        more = os.read(info.fileno(), 1 << 12)
        if not more:
            return -1
        data += more
    try:
        return os.pidfd_open(int(json.loads(data)["child-pid"]))
    except ProcessLookupError:
        return -1


def way_out(ours: socket.socket, *, proxy: bool) -> socket.socket | Nothing | None:
    """Return the socket of the command's proxy, or None without hosts; NOTHING if the jail did not start."""
    ours.settimeout(_START_S)
    try:
        said, fds, _, _ = socket.recv_fds(ours, 1, 1)
    except OSError:
        return NOTHING
    if not said or bool(fds) != proxy:
        return NOTHING
    return socket.socket(fileno=fds[0]) if fds else None


def cannot_start(errors: str) -> SandboxError:
    line = (errors.strip().splitlines() or ["it ended without an error message"])[-1]
    return SandboxError(
        f"the jail of the agent's command cannot start: {line}",
        where="--agent command",
        hint="run `sia doctor`: like the sandbox tier strict, a jail needs bubblewrap and its namespaces",
    )

"""Run an errand in a jail of bubblewrap, watch it, and ensure its end.

A run is over when the first process of the jail's process namespace is gone: the kernel kills and collects all others
before. The errand's results are read only afterwards.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sia_core.domain.jail import Ended, Errand
from sia_core.engine.jail.bubble import Inherited, Walls, command_line, environment, shown, uid, write_accounts
from sia_core.engine.jail.hosts import Allowed
from sia_core.engine.jail.proxy import Proxy
from sia_core.engine.jail.standing import LOOK_S, NOTHING, Started, cannot_start, first_process, way_out
from sia_core.engine.jail.tool import Tool, find_tool
from sia_core.engine.jail.watch import Tail, Watch
from sia_core.engine.sandbox import seccomp
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.launch import memory_file


class BubbleJail:
    """The `jail.Jail` of this machine."""

    def __init__(
        self,
        *,
        mounts: Sequence[Path] = (),
        hidden: Sequence[Path] = (),
        hosts: Sequence[str] = (),
        bwrap: str | None = None,
    ) -> None:
        """Prepare a jail without starting it.

        Args:
            mounts: paths shown read-only to every command.
            hidden: paths that are never shown.
            hosts: entries of `hosts.Allowed`; empty for a jail without network.

        Raises:
            SandboxError: bubblewrap or libseccomp is missing.
            UsageError: an invalid entry in `hosts`.
        """
        self._walls = Walls(tuple(path.absolute() for path in mounts), tuple(path.resolve() for path in hidden))
        self._hosts = [Allowed.parse(host) for host in hosts]
        self._bwrap = find_bubblewrap(bwrap)
        self._filter = seccomp.tools()

    def check(self, command: Sequence[str]) -> None:
        """Refuse a command that could not be started.

        Raises:
            UsageError: the command's program is not found, or a hidden path would be shown.
        """
        shown(find_tool(command[0]), self._walls)

    def own(self, *folders: Path) -> None:
        """Implement `Jail.own`."""
        if uid() < 0:
            return
        for folder in folders:
            os.lchown(folder, uid(), uid())
            for top, directories, files in os.walk(folder):
                for name in (*directories, *files):
                    os.lchown(Path(top) / name, uid(), uid())

    def remove(self, folder: Path) -> None:
        """Implement `Jail.remove`."""
        tree.remove(str(folder))

    def run(self, errand: Errand, meanwhile: Callable[[], None]) -> Ended:
        """Implement `Jail.run`."""
        tool = find_tool(errand.command[0])
        write_accounts(errand.given)
        began = time.monotonic()
        with self._started(errand, tool) as started:
            folders = (errand.work, errand.home)
            watch = Watch(started.process.pid, started.first, folders, errand.seconds) if started.first >= 0 else None
            try:
                while not started.gone(LOOK_S):
                    meanwhile()
            finally:
                if watch is not None:
                    watch.end()
                started.end()
            killed_for = watch.killed_for if watch is not None else None
            out, errors = started.out.text(), started.errors.text()
        return Ended(started.process.returncode, killed_for, out, errors, time.monotonic() - began)

    @contextmanager
    def _started(self, errand: Errand, tool: Tool) -> Iterator[Started]:
        """Start the jail and its proxy; end both with the context."""
        with contextlib.ExitStack() as stack:
            filter_file, stdin = (
                stack.enter_context(os.fdopen(memory_file(data), "rb")) for data in (self._filter, errand.stdin)
            )
            reading, writing = os.pipe()
            info = stack.enter_context(os.fdopen(reading, "rb"))
            info_out = stack.enter_context(os.fdopen(writing, "wb"))
            ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
            given = Inherited(info_out.fileno(), filter_file.fileno(), theirs.fileno())
            process = subprocess.Popen(
                command_line(self._bwrap, errand, tool, self._walls, given, proxy=bool(self._hosts)),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(given.info, given.filter, given.control),
                cwd="/",
                start_new_session=True,
                env=environment(errand, tool),
            )
            assert process.stdout is not None and process.stderr is not None
            started = Started(process, Tail(process.stdout), Tail(process.stderr))
            stack.callback(started.close)
            info_out.close()
            theirs.close()
            started.first = first_process(info)
            listener = way_out(ours, proxy=bool(self._hosts))
            if listener is NOTHING:
                started.end()
                raise cannot_start(started.errors.text())
            if isinstance(listener, socket.socket):
                stack.callback(Proxy(listener, self._hosts).close)
            yield started

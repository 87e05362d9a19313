"""A server that answers is ours only if its port is held by a process of ours."""

import os
import socket
import subprocess
import sys

from sia_core.services import HOST, Running, _is_its


def test_a_port_belongs_to_the_process_that_listens() -> None:
    with socket.socket() as own, subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            own.bind((HOST, 0))
            own.listen()
            port = own.getsockname()[1]
            assert _is_its(Running("it", os.getpgid(0), port))
            assert not _is_its(Running("it", other.pid, port))
            assert not _is_its(Running("it", os.getpgid(0), 9))
        finally:
            other.kill()


def test_a_child_listens_for_its_parent() -> None:
    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" & wait'], start_new_session=True, stdout=subprocess.PIPE
    ) as shell:
        try:
            assert shell.stdout is not None
            assert _is_its(Running("it", shell.pid, int(shell.stdout.readline())))
        finally:
            os.killpg(shell.pid, 9)

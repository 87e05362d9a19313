"""Telling a dead process from a live one, and from another machine's."""

import os
import subprocess
import sys
from dataclasses import replace

from sia_core.host.processes import Process


def test_this_process_lives() -> None:
    this = Process.this()
    assert this.here and not this.dead and str(os.getpid()) in str(this)


def test_reused_process_number_means_a_dead_process() -> None:
    assert replace(Process.this(), began=Process.this().began - 1).dead


def test_process_that_ended_is_dead_even_if_nobody_has_asked_how() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # It is a zombie now.
        assert replace(Process.this(), pid=child.pid, began=0).dead
    finally:
        child.wait()
    assert replace(Process.this(), pid=child.pid, began=0).dead


def test_process_of_another_machine_is_never_dead() -> None:
    other = replace(Process.this(), machine="elsewhere", pid=2**22 + 1)
    assert not other.here and not other.dead

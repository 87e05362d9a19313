"""Telling a dead process from a live one, and from another machine's."""

import os
import subprocess
import sys
from dataclasses import replace

from sia_core.host.processes import Process


def test_this_process_lives() -> None:
    this = Process.this()
    assert this.here and not this.dead and str(os.getpid()) in str(this)


def test_a_number_that_was_given_to_another_process_is_of_a_dead_one() -> None:
    assert replace(Process.this(), began=Process.this().began - 1).dead


def test_a_process_that_ended_is_dead_even_if_nobody_has_asked_how() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # It is a zombie now.
        assert replace(Process.this(), pid=child.pid, began=0).dead
    finally:
        child.wait()
    assert replace(Process.this(), pid=child.pid, began=0).dead


def test_nothing_is_known_of_another_machine() -> None:
    other = replace(Process.this(), machine="elsewhere", pid=2**22 + 1)
    assert not other.here and not other.dead

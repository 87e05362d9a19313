"""Programs may fork and run others, and all limits still hold."""

import pytest

from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.lab import SandboxResult
from tests.engine.sandbox.conftest import Run

_HOLD = """
import os, time
for _ in range({count}):
    if os.fork() == 0:
        held = bytearray({mb} << 20)
        time.sleep(20)
time.sleep({rest})
"""


@pytest.fixture
def family(run: Run) -> Run:
    def go(source: str, **limits: float) -> SandboxResult:
        return run(source, subprocesses=True, **limits)

    return go


def test_runs_programs_of_the_system_and_python(family: Run) -> None:
    source = """
import multiprocessing, os, subprocess, sys
print(subprocess.run("echo $((6 * 7)) | cat", shell=True, capture_output=True, text=True, check=True).stdout.strip())
print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True, check=True).stdout.strip())
left, right = multiprocessing.Pipe()
child = multiprocessing.Process(target=lambda: right.send("child"))
child.start()
print(left.recv())
child.join()
slow = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
slow.kill()
print(slow.wait())
"""
    result = family(source)
    assert (result.status, result.stdout.split()) == ("ok", ["42", "1", "child", "-9"]), result


def test_subprocesses_are_refused_unless_asked_for(run: Run) -> None:
    assert "Operation not permitted" in run("import subprocess; subprocess.run(['/bin/true'])").reason


def test_all_processes_end_with_the_program(family: Run) -> None:
    left = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)"
    assert family(left).wall_s < 5
    assert family("import os; print(os.getpid(), len(os.listdir('/proc')))").stdout == "1 0\n"


def test_memory_is_limited_for_all_together(family: Run) -> None:
    result = family(_HOLD.format(count=8, mb=100, rest=20), memory_mb=400)
    assert (result.status, result.reason) == ("memory", "its processes used more than 400 MB together"), result
    assert family(_HOLD.format(count=2, mb=100, rest=0.3), memory_mb=400).status == "ok"


def test_shared_pages_count_once(family: Run) -> None:
    source = "import os, time\nheld = bytearray(150 << 20)\nos.fork(), os.fork()\ntime.sleep(0.5)"
    assert family(source, memory_mb=300).status == "ok"


def test_cpu_time_is_limited_for_all_together(family: Run) -> None:
    source = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = family(source, cpu_s=1)
    assert (result.status, result.reason) == ("timeout", "used more than 1 s of CPU time"), result
    assert result.wall_s < 15


def test_processes_are_limited(family: Run) -> None:
    source = """
import os, time
made = 0
try:
    while os.fork():
        made += 1
    time.sleep(5)
except OSError as error:
    print(made < 32, error.errno)
"""
    assert family(source).stdout == "True 11\n"


def test_manifest_of_a_harness_asks_for_subprocesses() -> None:
    def load(needs: str) -> Harness:
        toml = f'name = "h"\nneeds = [{needs}]\n'.encode()
        return Harness.from_files({"harness.toml": toml, "agent.py": b""})

    assert load("").config.needs == ()
    assert load('"subprocesses"').config.needs == ("subprocesses",)
    with pytest.raises(HarnessError, match=r"needs\.0.*'subprocesses'"):
        load('"network"')

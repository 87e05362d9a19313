"""Processes: what dies with what, what recovers, and other users than root."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from sia_core.engine.sandbox.strict import StrictSandbox
from sia_core.lab import Limits, SandboxResult
from tests.engine.sandbox.conftest import as_nobody, system_python

_ROOT = Path(__file__).parents[3]
_DEAD = "ZX"
_SLEEP = {"main.py": b"import time\nopen('x', 'w')\ntime.sleep(60)"}


def _descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        state, parent = _state_and_parent(stat)
        if state not in _DEAD:
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, todo = set[int](), [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found.update(new)
        todo += new
    return found


def _state_and_parent(stat: Path) -> tuple[str, int]:
    try:
        state, parent = stat.read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def _alive(pid: int) -> bool:
    """False for a zombie too: its new parent may take its time."""
    return _state_and_parent(Path(f"/proc/{pid}/stat"))[0] not in _DEAD


def _gone(pids: set[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def _in_background(sandbox: StrictSandbox, results: list[SandboxResult]) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.append(sandbox.run(_SLEEP, Limits(wall_s=30))))
    thread.start()
    return thread


def _wait_for(count: int, pid: int) -> set[int]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = _descendants(pid)
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{pid} never had {count} descendants")


def test_killed_zygote_is_infrastructure_and_the_next_run_works(bwrap: str) -> None:
    sandbox = StrictSandbox(modules=(), bwrap=bwrap)
    try:
        results: list[SandboxResult] = []
        zygote = sandbox.start()
        idle = len(_descendants(zygote.pid))
        thread = _in_background(sandbox, results)
        tree = _wait_for(idle + 1, zygote.pid)
        os.kill(min(tree), signal.SIGKILL)
        thread.join(10)
        assert results[0].status == "infrastructure"
        assert _gone(tree, 1.0)
        assert sandbox.run({"main.py": b"print(1)"}, Limits()).stdout == "1\n"
        os.kill(sandbox.start().pid, signal.SIGKILL)
        time.sleep(0.2)
        assert sandbox.run({"main.py": b"print(2)"}, Limits()).stdout == "2\n"
    finally:
        sandbox.close()


def test_close_ends_every_process(bwrap: str) -> None:
    sandbox = StrictSandbox(modules=(), bwrap=bwrap)
    zygote = sandbox.start()
    tree = {zygote.pid, *_descendants(zygote.pid)}
    sandbox.close()
    sandbox.close()
    assert _gone(tree, 1.0)


def test_zygote_outlives_the_thread_that_asked_for_it(bwrap: str) -> None:
    sandbox = StrictSandbox(modules=(), bwrap=bwrap)
    try:
        thread = threading.Thread(target=sandbox.start)
        thread.start()
        thread.join()
        pid = sandbox.start().pid
        time.sleep(0.2)
        assert sandbox.run({"main.py": b"print(1)"}, Limits()).status == "ok"
        assert sandbox.start().pid == pid
    finally:
        sandbox.close()


def test_killed_supervisor_leaves_no_process(bwrap: str) -> None:
    source = f"""
from sia_core.engine.sandbox.strict import StrictSandbox
from sia_core.lab import Limits
sandbox = StrictSandbox(modules=(), bwrap={bwrap!r})
print(len(sandbox.run({{"main.py": b"print(1)"}}, Limits()).stdout), flush=True)
sandbox.run({_SLEEP!r}, Limits(wall_s=60))
"""
    with subprocess.Popen([sys.executable, "-c", source], cwd=_ROOT, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None and supervisor.stdout.readline() == b"2\n"
        tree = _wait_for(5, supervisor.pid)
        supervisor.kill()
        assert _gone(tree, 1.0)


def test_works_for_an_unprivileged_user() -> None:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    source = """
import os
from sia_core.engine.sandbox import open_sandbox
from sia_core.lab import Limits
sandbox = open_sandbox(modules=())
print(os.getuid(), sandbox.run({"main.py": b"print(6 * 7)"}, Limits()).stdout)
sandbox.close()
"""
    command = [*as_nobody(), system_python(), "-c", source]
    environment = {"PYTHONPATH": f"{_ROOT}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["65534", "42"], done.stderr

"""Processes end together, recover from kills, and work for users other than root."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from sia_core.domain.lab import Limits, SandboxResult
from sia_core.engine.sandbox.forked import ForkedSandbox
from tests.engine.sandbox.conftest import Make, as_nobody, system_python

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


def _in_background(sandbox: ForkedSandbox, results: list[SandboxResult]) -> threading.Thread:
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


def _folders() -> set[str]:
    return set(map(str, Path(tempfile.gettempdir()).glob("sia-landlock-*")))


def test_killed_zygote_is_infrastructure_and_the_next_run_works(make: Make) -> None:
    sandbox = make()
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


@pytest.mark.parametrize("running", [False, True])
def test_stopped_zygote_is_infrastructure_and_the_next_run_works(
    make: Make, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    monkeypatch.setattr("sia_core.engine.sandbox.supervise._SETUP_S", 0.5)
    monkeypatch.setattr("sia_core.engine.sandbox.supervise._GRACE_S", 0.5)
    sandbox = make()
    results: list[SandboxResult] = []
    zygote = sandbox.start()
    tree = _descendants(zygote.pid)
    if running:
        thread = threading.Thread(target=lambda: results.append(sandbox.run(_SLEEP, Limits(wall_s=1))))
        thread.start()
        _wait_for(len(tree) + 1, zygote.pid)
    for pid in tree:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    if running:
        thread.join(10)
    else:
        results.append(sandbox.run(_SLEEP, Limits(wall_s=1)))
    assert results[0].status == "infrastructure", results
    assert time.monotonic() - began < 6
    assert _gone(tree, 1.0)
    assert sandbox.run({"main.py": b"print(1)"}, Limits()).stdout == "1\n"


def test_close_ends_every_process(make: Make) -> None:
    before = _folders()
    sandbox = make()
    zygote = sandbox.start()
    tree = {zygote.pid, *_descendants(zygote.pid)}
    sandbox.close()
    sandbox.close()
    assert _gone(tree, 1.0)
    assert _folders() <= before


def test_zygote_outlives_the_thread_that_asked_for_it(make: Make) -> None:
    sandbox = make()
    thread = threading.Thread(target=sandbox.start)
    thread.start()
    thread.join()
    pid = sandbox.start().pid
    time.sleep(0.2)
    assert sandbox.run({"main.py": b"print(1)"}, Limits()).status == "ok"
    assert sandbox.start().pid == pid


_SUPERVISOR = """
import sys
from sia_core.engine.sandbox import select
from sia_core.domain.lab import Limits
sandbox = select._make({tier!r}, (), None)
print(len(sandbox.run({{"main.py": b"print(1)"}}, Limits()).stdout), flush=True)
try:
    print(sandbox.run({program!r}, Limits(wall_s=60, subprocesses=True)), flush=True)
except KeyboardInterrupt:
    print(sandbox.run({{"main.py": b"print(2)"}}, Limits()).stdout, flush=True)
    sys.stdin.read()
"""
_DAEMONS = """
import os, time
open("x", "w")
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(60)
time.sleep(60)
"""


def _supervisor(tier: str) -> "subprocess.Popen[bytes]":
    source = _SUPERVISOR.format(tier=tier, program={"main.py": _DAEMONS.encode()})
    command = [sys.executable, "-c", source]
    return subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_killed_supervisor_leaves_no_process_and_no_file(make: Make) -> None:
    before = _folders()
    with _supervisor(make().tier) as supervisor:
        assert supervisor.stdout is not None and supervisor.stdout.readline() == b"2\n"
        tree = _wait_for(6, supervisor.pid)
        supervisor.kill()
        assert _gone(tree, 1.0)
        assert _folders() <= before


def test_interrupted_run_leaves_no_process_and_the_next_works(make: Make) -> None:
    with _supervisor(make().tier) as supervisor:
        assert supervisor.stdout is not None and supervisor.stdout.readline() == b"2\n"
        tree = _wait_for(6, supervisor.pid)
        supervisor.send_signal(signal.SIGINT)
        assert supervisor.stdout.readline() == b"2\n"
        assert _gone(tree, 1.0)
        supervisor.kill()


def test_lack_of_descriptors_is_an_infrastructure_failure(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    sandbox = make()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", fail)
        assert sandbox.run({"main.py": b""}, Limits()).status == "infrastructure"
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert sandbox.run({"main.py": b""}, Limits()).status == "ok"


def test_full_disk_is_refused_and_never_the_program_s_fault(make: Make) -> None:
    """TMPDIR is a file system of some kilobytes, in a mount namespace of its own."""
    source = f"""
import os, tempfile
from pathlib import Path
from sia_core.engine.sandbox import open_sandbox, select
from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits
try:
    open_sandbox({make().tier!r}, modules=()).close()
    print("opened")
except SandboxError:
    print("refused")
sandbox = select._make({make().tier!r}, (), None)
print(sandbox.run({{"main.py": b"open('x', 'wb').write(bytes(1 << 20))"}}, Limits()).status)
sandbox.close()
"""
    fill = 'mount -t tmpfs -o size=8k,mode=1777 t $0 && head -c 4096 /dev/zero > $0/full; exec "$@"'
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", fill, folder]
        done = subprocess.run(
            [*command, sys.executable, "-c", source],
            cwd=_ROOT,
            env={**os.environ, "TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no mount here: {done.stderr.strip()}")
    expected = ["opened", "ok"] if make().tier == "strict" else ["refused", "infrastructure"]
    assert done.stdout.split() == expected, done.stderr


def test_works_for_an_unprivileged_user() -> None:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    source = """
import os
from sia_core.engine.sandbox import open_sandbox
from sia_core.domain.lab import Limits
sandbox = open_sandbox(modules=())
print(os.getuid(), sandbox.run({"main.py": b"print(6 * 7)"}, Limits()).stdout)
sandbox.close()
"""
    command = [*as_nobody(), system_python(), "-c", source]
    environment = {"PYTHONPATH": f"{_ROOT}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["65534", "42"], done.stderr

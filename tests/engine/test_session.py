"""A program that a verifier keeps running: fed, timed and ended from outside, in every tier."""

import math
import os
import time
from collections.abc import Iterator

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, ProgramEndedError
from sia_core.engine.live_program import SandboxProgram, shared_memory
from sia_core.engine.sandbox.bubblewrap import StrictSandbox
from sia_core.engine.sandbox.landlock import LandlockSandbox
from sia_core.engine.sandbox.plain import UnconfinedSubprocess
from sia_core.engine.sandbox.protocol import Sandbox
from sia_core.engine.worker import SandboxLab
from tests.engine.sandbox.conftest import open_interpreter

HEAD = """
import mmap, os, socket, threading, time
stream = socket.socket(fileno=int(os.environ["SIA_STREAM"]))
memory = mmap.mmap(0, os.fstat(0).st_size)
def take():
    size = int.from_bytes(stream.recv(4, socket.MSG_WAITALL), "big")
    return stream.recv(size, socket.MSG_WAITALL) if size else b""
def give(data):
    stream.sendall(len(data).to_bytes(4, "big") + data)
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass
"""


def asked(session: SandboxProgram, limit: int = 100, timeout_s: float = 20.0) -> bytes:
    """Send a request and return its answer."""
    session.send(b"go")
    return session.recv(limit, timeout_s)


ECHO = "while True: give(take()[::-1])"


@pytest.fixture(scope="module", params=["strict", "landlock", "none"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    made: Sandbox
    if request.param == "none":
        made = UnconfinedSubprocess()
    elif request.param == "landlock":
        if not open_interpreter():
            pytest.skip("no Landlock for this interpreter")
        made = LandlockSandbox(modules=())
    else:
        try:
            made = StrictSandbox(modules=())
        except SandboxError as error:
            pytest.skip(str(error))
    yield made
    made.close()


def start(sandbox: Sandbox, body: str, *, memory_bytes: int = 1 << 16, **limits: float) -> SandboxProgram:
    ceilings = Limits(**{"wall_s": 30, "memory_mb": 256, "disk_mb": 4, **limits})  # type: ignore[arg-type]
    files = {"main.py": (HEAD + body).encode()}
    return SandboxProgram(sandbox, files, ceilings, entry="main.py", memory_bytes=memory_bytes, release=lambda: None)


def test_frames_go_both_ways_and_memory_is_shared(sandbox: Sandbox) -> None:
    body = "while True:\n    said = take()\n    memory[:len(said)] = memory[:len(said)].upper()\n    give(said)"
    with start(sandbox, body) as session:
        for word in (b"one", b"two", b"", b"x" * 5000):
            session.memory[: len(word)] = word
            session.send(word)
            assert session.recv(5000, 10) == word
            assert bytes(session.memory[: len(word)]) == word.upper()
        assert session.close().status == "ok"


def test_clock_counts_every_thread_and_no_sleep(sandbox: Sandbox) -> None:
    body = (
        "while True:\n    kind = take()\n    if kind == b'sleep': time.sleep(0.3)\n    else:\n"
        "        threads = [threading.Thread(target=burn, args=(0.1,)) for _ in range(3)]\n"
        "        [thread.start() for thread in threads]; [thread.join() for thread in threads]\n    give(b'')"
    )
    with start(sandbox, body) as session:
        spent = {}
        for kind in (b"sleep", b"burn"):
            before = session.cpu_s()
            session.send(kind)
            session.recv(10, 20)
            spent[kind] = session.cpu_s() - before
    assert spent[b"sleep"] < 0.1
    assert 0.29 < spent[b"burn"] < 1.0


def test_clock_read_after_an_answer_holds_the_whole_call(sandbox: Sandbox) -> None:
    with start(sandbox, "while True:\n    take()\n    burn(0.002)\n    give(b'')\n    burn(0.006)") as session:
        spent = []
        for _ in range(20):
            before = session.cpu_s()
            asked(session)
            spent.append(session.cpu_s() - before)
    assert min(spent) > 0.0078, "the program had not left the processor when its clock was read"


def test_program_that_never_leaves_the_processor_holds_nobody_up(sandbox: Sandbox) -> None:
    with start(sandbox, "take()\ngive(b'')\nburn(60)") as session:
        asked(session)
        began = time.monotonic()
        session.cpu_s()
        assert time.monotonic() - began < 5


def test_clocks_patched_by_the_program_do_not_matter(sandbox: Sandbox) -> None:
    body = "burn_for = burn\ntake()\nburn_for(0.2)\ntime.process_time = time.time = lambda: 0\ngive(b'')\ntake()"
    with start(sandbox, body) as session:
        before = session.cpu_s()
        session.send(b"go")
        session.recv(10, 20)
        assert session.cpu_s() - before > 0.19


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("take()\n1 / 0", "error", "ZeroDivisionError"),
        ("take()\nos._exit(0)", "error", "before its work was done"),
        ("take()\nstream.close()\ntime.sleep(30)", "error", "before its work was done"),
        ("take()\nimport ctypes; ctypes.string_at(0)", "error", "SIGSEGV"),
        ("take()\ntime.sleep(60)", "timeout", "no answer in 1 s"),
        ("take()\nwhile True: pass", "timeout", "no answer in 1 s"),
        ("take()\ngive(b'x' * 101)\ntime.sleep(60)", "output", "a message of 101 bytes, at most 100"),
        ("take()\nstream.sendall(b'\\xff' * 4)\ntime.sleep(60)", "output", "at most 100"),
        ("take()\nstream.sendall(b'\\0\\0\\0\\5ab')\ntime.sleep(60)", "timeout", "no answer"),
        ("take()\nwhile True: print('x' * 9999)", "output", "wrote more than"),
    ],
)
def test_every_failing_end_has_a_status(sandbox: Sandbox, body: str, status: str, reason: str) -> None:
    with start(sandbox, body, output_kb=8) as session:
        began = time.monotonic()
        with pytest.raises(ProgramEndedError) as end:
            asked(session, timeout_s=1.0)
        assert (end.value.status, time.monotonic() - began < 8) == (status, True), end.value.reason
        assert reason in end.value.reason


def test_limits_hold_for_a_session(sandbox: Sandbox) -> None:
    with start(sandbox, "take()\nb = bytearray(1 << 40)") as session, pytest.raises(ProgramEndedError) as end:
        asked(session)
    assert end.value.status == "memory"
    with start(sandbox, "take()\nburn(60)", cpu_s=1) as session, pytest.raises(ProgramEndedError) as end:
        asked(session)
    assert end.value.status == "timeout" and "CPU" in end.value.reason


def test_closed_session_leaves_no_process(sandbox: Sandbox) -> None:
    session = start(sandbox, "[threading.Thread(target=burn, args=(60,)).start() for _ in range(3)]\nburn(60)")
    pid = session._pid
    session.close()
    session.close()
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            break
        time.sleep(0.05)
    else:
        pytest.fail("it lives on")
    with start(sandbox, ECHO) as again:  # the sandbox can be used again
        again.send(b"ab")
        assert again.recv(10, 10) == b"ba"


def test_memory_cannot_be_cut_from_inside(sandbox: Sandbox) -> None:
    body = "take()\ntry:\n    os.ftruncate(0, 0)\nexcept OSError as error: give(type(error).__name__.encode())\ntake()"
    with start(sandbox, body) as session:
        session.send(b"go")
        assert session.recv(100, 10) == b"PermissionError"
        session.memory[:4] = b"here"  # a smaller file would end this process


def test_memory_has_the_asked_size_and_starts_empty() -> None:
    memory, fd = shared_memory(12345)
    os.close(fd)
    assert bytes(memory) == bytes(12345)


@pytest.mark.parametrize("tier", ["strict", "none"])
def test_time_of_forked_children_counts(tier: str) -> None:
    try:
        made: Sandbox = StrictSandbox(modules=()) if tier == "strict" else UnconfinedSubprocess()
    except SandboxError as error:
        pytest.skip(str(error))
    body = (
        "take()\n"
        "if os.fork() == 0:\n    burn(0.2)\n    os._exit(0)\n"  # waited for
        "os.wait()\n"
        "if os.fork() == 0:\n    burn(0.2)\n    time.sleep(9)\n    os._exit(0)\n"  # still alive
        "time.sleep(1.0)\ngive(b'')\ntake()"
    )
    try:
        with start(made, body, subprocesses=True) as session:
            before = session.cpu_s()
            session.send(b"go")
            session.recv(10, 25)
            spent = session.cpu_s() - before
    finally:
        made.close()
    assert 0.37 < spent < 1.5 and math.isfinite(spent)


def test_sessions_of_one_lab_run_side_by_side_and_leave_it_usable() -> None:
    try:
        sandbox = StrictSandbox(modules=())
    except SandboxError as error:
        pytest.skip(str(error))
    lab = SandboxLab(sandbox)
    files = {"main.py": (HEAD + ECHO).encode()}
    try:
        with lab.open(files, Limits()) as first, lab.open(files, Limits()) as second:
            for session, word in ((first, b"ab"), (second, b"cd")):
                session.send(word)
                assert session.recv(9, 10) == word[::-1]
            assert lab.run({"main.py": b"print(3)"}, Limits()).stdout == "3\n"
        assert sum(map(len, lab._idle.values())) == 2
        with lab.open(files, Limits()):
            assert sum(map(len, lab._idle.values())) == 1
    finally:
        lab.close()
        sandbox.close()
    assert not any(lab._idle.values())


def test_files_may_be_loaded_as_code_only_when_asked() -> None:
    try:
        sandbox = StrictSandbox(modules=())
    except SandboxError as error:
        pytest.skip(str(error))
    code = "import mmap\nopen('x', 'wb').write(bytes(4096))\nf = open('x', 'rb')\n"
    code += "mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)\nprint('mapped')"
    try:
        assert "Operation not permitted" in sandbox.run({"main.py": code.encode()}, Limits()).reason
        assert sandbox.run({"main.py": code.encode()}, Limits(native=True)).stdout == "mapped\n"
    finally:
        sandbox.close()

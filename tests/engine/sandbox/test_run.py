"""Test what a program may do, what its run returns, and the status of every way to end."""

import json
import socket
import threading
from pathlib import Path

import pytest

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox.bubblewrap import StrictSandbox
from tests.engine.sandbox.conftest import Run


def test_returns_output_and_collected_files(sandbox: StrictSandbox) -> None:
    program = b"import helper, pkg.data\nprint(helper.x)\nopen('out/r.bin', 'wb').write(b'\\0\\1')"
    files = {"main.py": program, "helper.py": b"x = 6 * 7", "pkg/data.py": b"", "out/seed": b"s"}
    result = sandbox.run(files, Limits(), collect=["out/r.bin", "out/seed", "absent", "out"])
    assert (result.status, result.stdout, result.stderr) == ("ok", "42\n", "")
    assert result.files == {"out/r.bin": b"\0\1", "out/seed": b"s"}
    assert 0 < result.wall_s < 20


def test_runs_as_main_with_traceback_and_exit_code(run: Run) -> None:
    result = run("import sys\ndef f():\n    raise ValueError(__name__)\nprint(sys.argv)\nf()")
    assert (result.status, result.reason) == ("error", "ValueError: __main__")
    assert result.stdout == "['main.py']\n"
    assert result.stderr.startswith("Traceback") and "line 3, in f\n    raise" in result.stderr
    assert "sia_inside" not in result.stderr


def test_numpy_asyncio_threads_and_atexit_work(run: Run) -> None:
    source = """
import asyncio, atexit, threading, time
import numpy
async def main():
    await asyncio.sleep(0.01)
    return await asyncio.to_thread(lambda: float(numpy.linalg.solve(numpy.eye(3), numpy.ones(3)).sum()))
print(asyncio.run(main()))
atexit.register(print, "bye")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
"""
    result = run(source)
    assert (result.status, result.stdout) == ("ok", "3.0\nthread\nbye\n"), result


def test_random_numbers_differ_between_runs(run: Run) -> None:
    source = "import random, numpy\nprint(random.random(), numpy.random.rand())"
    first, second = run(source).stdout.split(), run(source).stdout.split()
    assert first[0] != second[0] and first[1] != second[1]


@pytest.mark.parametrize(
    ("source", "limits", "status", "reason"),
    [
        ("1 / 0", {}, "error", "ZeroDivisionError: division by zero"),
        ("def", {}, "error", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", {}, "error", "exit code 3"),
        ("import sys; sys.exit('no')", {}, "error", "no"),
        ("import ctypes; ctypes.string_at(0)", {}, "error", "ended by SIGSEGV"),
        ("import time; time.sleep(60)", {"wall_s": 0.3}, "timeout", "ran longer than 0.3 s"),
        ("while True: pass", {"cpu_s": 1}, "timeout", "used more than 1 s of CPU time"),
        ("b = bytearray(1 << 40)", {}, "memory", "MemoryError"),
        ("x = [0]\nwhile True: x += x", {}, "memory", "MemoryError"),
        ("import numpy; numpy.ones(1 << 32)", {}, "memory", "Unable to allocate"),
        ("open('x', 'wb').write(bytes(5 << 20))", {"memory_mb": 512}, "disk", "Errno"),
        ("for i in range(9999): open(str(i), 'w')", {}, "disk", "No space left"),
        ("while True: print('x' * 1000)", {"output_kb": 8}, "output", "more than 8 KB"),
        ("print('x' * 20000)", {"output_kb": 8}, "output", "more than 8 KB"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", {"output_kb": 8}, "output", "more than 8 KB"),
    ],
)
def test_names_every_way_a_program_ends(
    run: Run, source: str, limits: dict[str, float], status: str, reason: str
) -> None:
    result = run(source, **limits)
    assert result.status == status, result
    assert reason in result.reason
    assert len(result.stdout) <= 256 << 10


def test_output_is_cut_at_the_cap_and_kept(run: Run) -> None:
    assert len(run("print('x' * 20000)", output_kb=8).stdout) == 8192


def test_files_survive_a_timeout(run: Run) -> None:
    result = run("import time\nopen('x', 'w').write('part')\ntime.sleep(60)", wall_s=0.5, collect=["x"])
    assert (result.status, result.files) == ("timeout", {"x": b"part"})


def test_collected_files_are_capped(run: Run) -> None:
    source = "for n in 'ab': open(n, 'wb').write(bytes(700 << 10))"
    assert run(source, files_mb=1, collect=["a"]).status == "ok"
    result = run(source, files_mb=1, collect=["a", "b"])
    assert (result.status, result.files) == ("output", {})


def test_files_that_do_not_fit_are_a_disk_failure(sandbox: StrictSandbox) -> None:
    result = sandbox.run({"main.py": b"", "big": bytes(2 << 20)}, Limits(disk_mb=1))
    assert result.status == "disk"


def test_limits_may_be_none_or_endless(run: Run) -> None:
    assert run("print(1)", wall_s=float("inf"), cpu_s=float("inf")).stdout == "1\n"
    assert run("open('x', 'wb').write(bytes(5 << 20))", disk_mb=0).status == "disk"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "a//b", "a\0b", "a\nb"])
def test_refuses_names_that_leave_the_directory(sandbox: StrictSandbox, name: str) -> None:
    main = {"main.py": b""}
    assert sandbox.run({**main, name: b""}, Limits()).status == "error"
    assert sandbox.run(main, Limits(), collect=[name]).status == "error"
    assert sandbox.run(main, Limits(), entry=name).status == "error"


def test_stream_carries_json_lines_both_ways(sandbox: StrictSandbox) -> None:
    program = b"""
import asyncio, json, os, socket
async def main():
    sock = socket.socket(fileno=int(os.environ["SIA_STREAM"]))
    reader, writer = await asyncio.open_connection(sock=sock)
    for n in range(3):
        writer.write(json.dumps({"ask": n}).encode() + b"\\n")
        print(json.loads(await reader.readline())["answer"])
asyncio.run(main())
"""
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=_answer, args=(ours,))
    server.start()
    try:
        result = sandbox.run({"main.py": program}, Limits(wall_s=20), stream=theirs)
    finally:
        theirs.close()
        server.join(5)
        ours.close()
    assert (result.status, result.stdout) == ("ok", "0\n10\n20\n"), result


def _answer(sock: socket.socket) -> None:
    with sock.makefile("rw") as file:
        for line in file:
            file.write(json.dumps({"answer": json.loads(line)["ask"] * 10}) + "\n")
            file.flush()


def test_sdk_can_be_imported_in_the_sandbox(bwrap: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # root's sandbox is another user
    (tmp_path / "sia_probe_sdk.py").write_text("word = 'sdk'")
    made = StrictSandbox(modules=("sia_probe_sdk",), sdk=tmp_path, bwrap=bwrap)
    try:
        result = made.run({"main.py": b"import sia_probe_sdk\nprint(sia_probe_sdk.word)"}, Limits())
    finally:
        made.close()
    assert result.stdout == "sdk\n", result

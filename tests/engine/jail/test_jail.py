"""A command in its jail sees its own directories, ends with all its processes, and reaches only the proxy."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.errors import SandboxError, UsageError
from sia_core.domain.jail import Ended, Errand
from sia_core.engine.jail import BubbleJail, watch
from sia_core.engine.sandbox.inside import tree
from tests.engine.jail.hostile import ATTACKS, CONTROLS
from tests.engine.sandbox.conftest import as_nobody, system_python

PROJECT = Path(__file__).resolve().parents[3]
Run = Callable[..., Ended]


def outcomes(command: list[str]) -> dict[str, Any]:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PYTHONPATH": f"{PROJECT}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.engine.jail"],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("bwrap")
@pytest.mark.parametrize("user", ["self", "nobody"])
def test_hostile_command_reaches_nothing_outside(user: str) -> None:
    found = outcomes([sys.executable] if user == "self" else [*as_nobody(), system_python()])
    assert {name for name, ended in found["outside"].items() if ended == "works"} == set(ATTACKS), "controls"
    assert {name for name, ended in found["inside"].items() if ended == "works"} == set(CONTROLS), found["inside"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    for name in ("work", "home", "given"):
        (tmp_path / "desk" / name).mkdir(parents=True)
    return tmp_path / "desk"


@pytest.fixture
def run(desk: Path, bwrap: str) -> Run:
    """Run a shell script in a jail."""

    def go(text: str, *, seconds: float = 30, meanwhile: Callable[[], None] = lambda: None, **settings: Any) -> Ended:
        jail = BubbleJail(bwrap=bwrap, **settings)
        jail.own(desk / "work", desk / "home")
        work, home, given = (desk / name for name in ("work", "home", "given"))
        return jail.run(Errand(("sh", "-c", text), work, home, given, b"told\n", {"GIVEN": "x"}, seconds), meanwhile)

    return go


def test_command_keeps_its_input_outputs_and_status(run: Run) -> None:
    ended = run("cat; echo $GIVEN; echo bad >&2; exit 5")
    assert (ended.code, ended.stdout, ended.stderr, ended.killed_for) == (5, "told\nx\n", "bad\n", None)


def test_command_runs_without_user_and_rights(run: Run) -> None:
    ended = run("id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /usr/x /etc/x /sia/x /x 2>&1")
    uid, *status = ended.stdout.splitlines()
    assert int(uid) != 0
    assert [line.split()[1] for line in status[:3]] == ["0" * 16, "1", "2"]
    assert len([line for line in status[3:] if "Read-only" in line or "denied" in line]) == 4


def test_background_processes_end_with_the_command(run: Run, desk: Path) -> None:
    began = tree.below(os.getpid(), tree.tasks())
    ended = run("(setsid sh -c 'while :; do echo x >> late; sleep 0.05; done' &) ; sleep 0.3; echo done")
    assert ended.stdout == "done\n"
    size = (desk / "work/late").stat().st_size
    assert size > 0, "it did run"
    time.sleep(0.3)
    assert (desk / "work/late").stat().st_size == size
    assert tree.below(os.getpid(), tree.tasks()) <= began


def test_hundreds_of_processes_are_ended_at_the_limit_of_time(run: Run) -> None:
    began = tree.below(os.getpid(), tree.tasks())
    seen = 0

    def look() -> None:
        nonlocal seen
        seen = max(seen, len(tree.below(os.getpid(), tree.tasks())))

    ended = run("for i in $(seq 300); do setsid sleep 900 & done; wait", seconds=3, meanwhile=look)
    assert ended.killed_for == "time"
    assert seen > 200, "they did run"
    assert tree.below(os.getpid(), tree.tasks()) <= began


@pytest.mark.parametrize(
    "text",
    [
        "head -c 9000000 /dev/zero > big; sleep 30",
        "for i in $(seq 600); do : > f$i; done; sleep 30",
        "for i in $(seq 80); do mkdir d; cd d; done; sleep 30",
        "cd ~; head -c 9000000 /dev/zero > big; sleep 30",
    ],
)
def test_command_that_fills_the_disk_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(watch, "DISK_BYTES", 8_000_000)
    monkeypatch.setattr(watch, "DISK_FILES", 500)
    assert run(text).killed_for == "disk"


def test_command_that_takes_too_much_memory_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_memory_mb", lambda: 100)
    source = "import time; x = bytearray(300 << 20); time.sleep(30)"
    assert run(f"{sys.executable} -I -c '{source}'").killed_for == "memory"


def test_end_of_a_long_output_is_kept(run: Run) -> None:
    ended = run("seq 200000")
    assert len(ended.stdout) < watch.OUTPUT_BYTES + 100
    assert ended.stdout.startswith("[... ") and ended.stdout.endswith("199999\n200000\n")


def test_folder_is_removed_with_deep_or_closed_directories_in_it(run: Run, desk: Path, bwrap: str) -> None:
    run(
        "for i in $(seq 2000); do mkdir d 2>/dev/null; cd d || break; done; cd ~; mkdir a; touch a/x; chmod 0 a",
        seconds=20,
    )
    BubbleJail(bwrap=bwrap).remove(desk / "work")
    BubbleJail(bwrap=bwrap).remove(desk / "home")
    assert [path.name for path in desk.iterdir()] == ["given"]


@pytest.fixture
def port() -> Iterator[int]:
    """A server of this machine that greets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    made, _ = server.accept()
                except OSError:
                    return
                with made:
                    head = made.recv(1000)
                    body = b"path " + head.split()[1]
                    made.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]


ASK = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
except Exception as error:
    print(type(error).__name__, error, getattr(error, "read", bytes)().decode())
"""


def ask(url: str) -> str:
    return f"{sys.executable} -I -c '{ASK}' {url}"


def test_only_the_named_host_is_reached(run: Run, port: int) -> None:
    allowed = run(f"{ask(f'http://127.0.0.1:{port}/a?b=c')}; {ask('http://127.0.0.1:1/')}", hosts=[f"127.0.0.1:{port}"])
    first, second, *_ = allowed.stdout.splitlines()
    assert first == "path /a?b=c"
    assert "403" in second and "127.0.0.1:1 is not among the hosts" in second


def test_all_hosts_means_all_public_hosts(run: Run, port: int) -> None:
    urls = ["http://127.0.0.1:80/", "http://[::1]/", "http://localhost/", "http://169.254.169.254/", "http://10.0.0.1/"]
    ended = run("; ".join(map(ask, urls)), hosts=["*"])
    answers = [line for line in ended.stdout.splitlines() if line]
    assert len(answers) == len(urls)
    assert all("is an address of this machine or of a private network" in answer for answer in answers), answers
    assert "not among the hosts" in run(ask(f"http://127.0.0.1:{port}/"), hosts=["*"]).stdout


def test_tunnel_is_opened_to_a_named_host(run: Run, port: int) -> None:
    source = f"""
import os, socket
from urllib.parse import urlsplit
at = urlsplit(os.environ["https_proxy"])
with socket.create_connection((at.hostname, at.port)) as made:
    made.sendall(b"CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n")
    print(made.recv(100).split(b"\\r\\n")[0].decode())
    made.sendall(b"GET /in/a/tunnel HTTP/1.1\\r\\n\\r\\n")
    print(made.recv(1000).split(b"\\r\\n\\r\\n")[1].decode())
"""
    ended = run(f"{sys.executable} -I -c '{source}'", hosts=[f"127.0.0.1:{port}"])
    assert ended.stdout.splitlines() == ["HTTP/1.1 200 Connection established", "path /in/a/tunnel"]


@pytest.mark.parametrize(
    "noise",
    [
        "b''",
        "b'GET\\r\\n\\r\\n'",
        "b'GET / HTTP/1.1\\r\\n\\r\\n'",
        "b'x' * 40000",
        "bytes(300) + b'\\r\\n\\r\\n'",
        "b'CONNECT [:x HTTP/1.1\\r\\n\\r\\n'",
    ],
)
def test_noise_does_not_end_the_proxy(run: Run, port: int, noise: str) -> None:
    source = f"""
import os, socket
from urllib.parse import urlsplit
at = urlsplit(os.environ["http_proxy"])
for _ in range(80):
    try:
        with socket.create_connection((at.hostname, at.port)) as made:
            made.sendall({noise})
    except OSError:
        pass
"""
    host = f"127.0.0.1:{port}"
    made = shlex.join([sys.executable, "-I", "-c", source])
    ended = run(f"{made}; {ask(f'http://{host}/still')}", hosts=[host])
    assert "path /still" in ended.stdout, ended


@pytest.mark.parametrize("text", ["http://x", "a b", "x:port", "", "*.*"])
def test_host_option_without_a_host_name_is_refused(bwrap: str, text: str) -> None:
    with pytest.raises(UsageError, match="names no host"):
        BubbleJail(bwrap=bwrap, hosts=[text])


def test_hidden_paths_are_covered_or_their_mount_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "lib/private").mkdir(parents=True)
    (tmp_path / "lib/private/key").write_text("GOT")
    (tmp_path / "lib/code").write_text("fine")
    lib, private = tmp_path / "lib", tmp_path / "lib/private"
    text = f"cat {lib}/code; cat {private}/key"
    assert run(text, mounts=[lib]).stdout == "fineGOT", "control"
    assert run(text, mounts=[lib], hidden=[private]).stdout == "fine"
    with pytest.raises(UsageError, match="which agents must not see"):
        run(text, mounts=[private / "key"], hidden=[private])
    with pytest.raises(UsageError, match="holds too much"):
        run(text, mounts=[Path.home()])


def test_jail_that_cannot_start_is_an_error_and_no_verdict(desk: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    broken.chmod(0o755)
    jail = BubbleJail(bwrap=str(broken))
    with pytest.raises(SandboxError, match="cannot start: no namespaces here"):
        jail.run(Errand(("true",), desk / "work", desk / "home", desk / "given"), lambda: None)


def test_interruption_ends_the_jail(run: Run, desk: Path) -> None:
    began = tree.below(os.getpid(), tree.tasks())

    def interrupt() -> None:
        if (desk / "work/there").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("touch there; sleep 900", meanwhile=interrupt)
    assert tree.below(os.getpid(), tree.tasks()) <= began

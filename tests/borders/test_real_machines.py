"""Conditions of machines made for real, in namespaces of their own, and what `sia doctor` finds then."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


def mount(where: str, size: str = "1m") -> str:
    """Return the command that mounts a small file system."""
    return f"mount -t tmpfs -o size={size} tmpfs {where}; "


def full(*places: str) -> str:
    """Return the commands that mount small file systems and fill them."""
    return "".join(
        f"{mount(where)} dd if=/dev/zero of={where}/filler bs=1k count=2000 2>/dev/null; " for where in places
    )


NAMELESS: Final = (
    f"ip link set lo up; hostname no-such-host; {mount('/mnt')}"
    "echo 127.0.0.1 localhost > /mnt/hosts; mount --bind /mnt/hosts /etc/hosts; "
    "echo nameserver 10.255.255.1 > /mnt/resolv; mount --bind /mnt/resolv /etc/resolv.conf; "
)
CONDITIONS: Final = {
    "little shared memory": (mount("/dev/shm", "16m"), {"shm": "warning"}),
    "full /tmp": (full("/tmp"), {"tmp": "ok", "sockets": "ok"}),
    "full /tmp and /var/tmp": (full("/tmp", "/var/tmp"), {"sockets": "failed"}),
    "read-only /tmp": (mount("/tmp", "1m,ro"), {"tmp": "ok", "sockets": "ok"}),
    "no network": ("", {"loopback": "failed"}),
    "no network but the loopback, and no name": (NAMELESS, {"loopback": "ok", "sockets": "ok"}),
    "few open files": ("ulimit -n 200; ", {"files": "failed"}),
    "one CPU": ("", {"cpus": "ok"}),
}
"""Condition -> commands that make it, status by subject."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home outside /tmp, which is mounted over."""
    path = Path(f"/var/cache/sia-test-{os.getpid()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_condition_made_for_real_is_seen_by_the_doctor(condition: str, home: Path) -> None:
    possible = subprocess.run(["unshare", "-m", "-u", "-n", "true"], check=False, capture_output=True)
    if os.geteuid() or possible.returncode:
        pytest.skip("needs root and namespaces")
    commands, expected = CONDITIONS[condition]
    if "/tmp" in condition and {"/tmp", "/var/tmp"} & {str(one) for one in (*ROOT.parents, *Path(sys.prefix).parents)}:
        pytest.skip("needs a project outside the directories that it mounts over")
    namespaces = ["unshare", "-m", "-u", *(["-n"] if "network" in condition else [])]
    affinity = ["taskset", "-c", "0"] if condition == "one CPU" else []
    doctor = [
        sys.executable,
        "-m",
        "sia_core.cli.main",
        "doctor",
        "--policy",
        "scripted",
        "--sandbox",
        "none",
        "--json",
    ]
    done = subprocess.run(
        [*namespaces, *affinity, "sh", "-c", f'{commands}exec "$@"', "sh", *doctor],
        env={**os.environ, "SIA_HOME": str(home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert {subject: found[subject]["status"] for subject in expected} == expected, done.stdout
    assert all(found[subject]["fix"] for subject, status in expected.items() if status != "ok")
    assert condition != "one CPU" or found["cpus"]["seen"].startswith("1 CPU of ")

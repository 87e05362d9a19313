"""Machines that differ from a developer's: each works, or is answered within seconds by what to do."""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
import ray
import requests

from sia_core.cli import servers as cli_servers
from sia_core.doctor.machine import check_condition
from sia_core.doctor.services import check_mlflow
from sia_core.domain.errors import RecordError, ServiceError, SiaError
from sia_core.engine import cluster
from sia_core.host import external, servers
from sia_core.host.machine import checks, loopback, processors, proxies, scratch, settings
from sia_core.host.machine.condition import Condition
from sia_core.host.machine.ray_token import provide_token
from sia_core.host.servers import ensure, stop
from sia_core.host.services import Service, mlflow_service, prefect_service

DEAD = "http://127.0.0.1:9"
LOOPBACK = set(proxies.LOOPBACK)
PREFIXES = ("PREFECT_", "RAY_", "MLFLOW_", "SIA_OWN")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, and no settings of Prefect, Ray and MLflow."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def site() -> Iterator[str]:
    """Address of a server on the loopback that answers 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def no_proxy(environment: dict[str, str]) -> list[set[str]]:
    return [set(environment[name].split(",")) for name in ("NO_PROXY", "no_proxy")]


# Proxies


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_loopback_is_spared_whichever_variable_names_the_proxy(name: str) -> None:
    environment = {name: DEAD}
    proxies.spare_loopback(environment)
    assert no_proxy(environment) == [LOOPBACK, LOOPBACK] and environment[name] == DEAD


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_spared_hosts_of_the_user_are_kept(name: str) -> None:
    environment = {"HTTP_PROXY": DEAD, name: ".corp.example, 10.0.0.0/8,localhost"}
    proxies.spare_loopback(environment)
    proxies.spare_loopback(environment)
    assert no_proxy(environment) == [LOOPBACK | {".corp.example", "10.0.0.0/8"}] * 2
    assert environment["NO_PROXY"].count("127.0.0.1") == 1


def test_star_in_no_proxy_is_kept_alone() -> None:
    environment = {"HTTP_PROXY": DEAD, "no_proxy": "*"}
    proxies.spare_loopback(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == "*"


def test_environment_without_proxies_stays_unchanged() -> None:
    environment = {"PATH": "/bin"}
    proxies.spare_loopback(environment)
    assert environment == {"PATH": "/bin"}


def test_grpc_variables_of_the_user_spare_the_loopback_too() -> None:
    environment = {"grpc_proxy": DEAD, "no_grpc_proxy": "a.example"}
    proxies.spare_loopback(environment)
    assert set(environment["no_grpc_proxy"].split(",")) == LOOPBACK | {"a.example"}


def by_urllib(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return int(reply.status)


@pytest.mark.parametrize(
    "get",
    [
        by_urllib,
        lambda url: requests.get(url, timeout=5).status_code,
        lambda url: httpx.get(url, timeout=5).status_code,
    ],
    ids=["urllib", "requests", "httpx"],
)
def test_http_library_reaches_the_loopback_past_a_dead_proxy(
    get: Callable[[str], int], site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, DEAD)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    proxies.spare_loopback()
    assert get(site) == 200


def test_proxy_for_a_model_server_elsewhere_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"https_proxy": "http://me:pw@proxy:3128"}
    proxies.spare_loopback(environment)
    assert proxies.proxy_for("https://api.example.com/v1", environment) == "https_proxy=http://proxy:3128"
    assert proxies.proxy_for("http://api.example.com/v1", environment) == ""
    assert proxies.proxy_for("https://127.0.0.1:8000/v1", environment) == ""


def test_own_server_comes_up_behind_a_dead_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 20.0)
    service = site_service()
    try:
        assert ensure(service, tmp_path).url.startswith("http://127.0.0.1")
    finally:
        stop(service, tmp_path)


def site_service(**more: Any) -> Service:
    """Return a service that serves a directory; `server` stands in its command, as in those of real services."""
    code = "import http.server as h, sys; h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler)"
    return Service(
        name="server",
        port=free_port(),
        health="/",
        command=lambda _, port: [sys.executable, "-c", f"{code}.serve_forever()", str(port)],
        environment=lambda _home, _port: {},
        **more,
    )


def free_port() -> int:
    return servers._any_port()


def test_server_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    service = Service(
        "server",
        0,
        "/",
        lambda _, __: [sys.executable, "-c", "raise SystemExit('the server has no disk')"],
        lambda *_: {},
    )
    with pytest.raises(ServiceError, match="the server has no disk"):
        ensure(service, tmp_path, port=free_port())


def test_unreachable_server_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"through the proxy HTTP_PROXY=http://127\.0\.0\.1:9") as caught:
        external.check_mlflow({"MLFLOW_TRACKING_URI": "http://mlflow.example:5000"})
    assert "NO_PROXY=mlflow.example" in caught.value.hint and "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["http://", "http://proxy:port", "ftp://proxy:3128", "http://:3128", "proxy:99999"])
def test_proxy_without_usable_address_is_refused_by_name(value: str) -> None:
    with pytest.raises(ServiceError, match="is not the address of a proxy") as caught:
        proxies.check_proxies({"HTTPS_PROXY": value})
    assert caught.value.where == "HTTPS_PROXY" and "unset HTTPS_PROXY" in caught.value.hint


@pytest.mark.parametrize("value", ["http://proxy:3128", "proxy:3128", "https://me:pw@proxy", "http://[::1]:3128"])
def test_usable_proxy_is_shown_without_password(value: str) -> None:
    seen = proxies.check_proxies({"http_proxy": value}).seen
    assert "http_proxy=" in seen and "pw" not in seen


def test_socks_proxy_without_its_packages_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    with pytest.raises(ServiceError, match="SOCKS") as caught:
        proxies.check_proxies({"ALL_PROXY": "socks5://me:secret@127.0.0.1:1080"})
    assert "pip install" in caught.value.hint and "secret" not in str(caught.value)
    monkeypatch.setattr(proxies, "find_spec", lambda _: object())
    assert "socks5" in proxies.check_proxies({"ALL_PROXY": "socks5://127.0.0.1:1080"}).seen
    with pytest.raises(ServiceError, match="SOCKS 4"):
        proxies.check_proxies({"ALL_PROXY": "socks4://127.0.0.1:1080"})


# Processors


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job\n", {"job/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "800000 100000\n", "a/b/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/../other\n", {"cpu.max": "100000 100000\n"}, 1.0),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, None),
        ("0::/job\n", {"job/cpu.max": "garbage\n"}, None),
        ("0::/job\n", {}, None),
        ("", {}, None),
        ("not a line\n", {}, None),
        (
            "4:cpu,cpuacct:/docker/1\n",
            {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "400000", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"},
            4.0,
        ),
        ("4:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:cpuset:/x\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_quota_of_the_control_group_is_found(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float | None
) -> None:
    groups = tree(tmp_path / "groups", files)
    (tmp_path / "cgroup").write_text(membership)
    assert processors.quota(groups, tmp_path / "cgroup") == expected


@pytest.mark.parametrize(("limit", "usable"), [("50000", 1), ("250000", 2), ("9900000", 8), ("max", 8)])
def test_cpus_are_bounded_by_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, usable: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    groups = tree(tmp_path / "groups", {"cpu.max": f"{limit} 100000"})
    (tmp_path / "cgroup").write_text("0::/\n")
    assert processors.cpus(groups, tmp_path / "cgroup") == usable


# Ray


def test_local_cluster_fits_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.setattr(cluster, "cpus", lambda: 3)
    monkeypatch.setattr(scratch, "object_store", lambda: 10**8)
    monkeypatch.setattr(scratch, "in_shared_memory", lambda _: False)
    monkeypatch.setenv("RAY_TMPDIR", str(short(tmp_path)))
    assert cluster.connect()
    assert asked["num_cpus"] == 3 and asked["_node_ip_address"] == "127.0.0.1"
    assert asked["object_store_memory"] == 10**8 and asked["_plasma_directory"] == asked["_temp_dir"]
    assert asked["_temp_dir"] == str(scratch.ray_directory())


def short(tmp_path: Path) -> Path:
    """Return a short path for a directory of the test, whose own path may be too long for a socket."""
    link = Path(f"/tmp/sia-test-{os.getpid()}-{abs(hash(tmp_path)) % 10_000}")
    if not link.exists():
        link.symlink_to(tmp_path)
    return link


@pytest.fixture(autouse=True)
def no_links_left() -> Iterator[None]:
    yield
    for link in Path("/tmp").glob(f"sia-test-{os.getpid()}-*"):
        link.unlink()


@pytest.mark.parametrize("length", [60, 110, 200])
def test_long_tmpdir_is_replaced_by_a_short_private_directory(tmp_path: Path, length: int) -> None:
    long = tmp_path / ("x" * length)
    long.mkdir()
    folder = scratch.ray_directory({"TMPDIR": str(long)})
    session = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    assert len(os.fsencode(f"{folder}{session}")) <= 107
    found = folder.parent.lstat()
    assert found.st_uid == os.geteuid() and not found.st_mode & 0o077 and not list(long.iterdir())


def test_short_tmpdir_is_used_by_ray(tmp_path: Path) -> None:
    base = short(tmp_path)
    for named in ({"TMPDIR": str(base)}, {"TMPDIR": "/nowhere", "RAY_TMPDIR": str(base)}):
        assert scratch.ray_directory(named).parent.parent == base


def test_directory_that_ray_has_opened_to_everyone_is_used_again(tmp_path: Path) -> None:
    named = {"RAY_TMPDIR": str(short(tmp_path))}
    folder = scratch.ray_directory(named)
    folder.mkdir()
    folder.chmod(0o777)  # As Ray does.
    assert scratch.ray_directory(named) == folder


@pytest.mark.parametrize("asked", ["/nowhere/at/all", "/" + "x" * 120, "/proc"])
def test_unusable_ray_tmpdir_is_refused_by_name(asked: str) -> None:
    with pytest.raises(ServiceError, match="no directory for its sockets") as caught:
        scratch.ray_directory({"RAY_TMPDIR": asked})
    assert caught.value.where == "RAY_TMPDIR" and "export RAY_TMPDIR=" in caught.value.hint


def make_file(folder: Path) -> None:
    folder.write_text("")


def make_link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir()
    folder.symlink_to(folder.with_name("elsewhere"))


def make_open(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize("make", [make_file, make_link, make_open])
def test_directory_that_others_could_control_is_not_used(tmp_path: Path, make: Callable[[Path], None]) -> None:
    base = short(tmp_path)
    make(base / f"sia-{os.geteuid()}")
    with pytest.raises(ServiceError, match=f"sia-{os.geteuid()} "):
        scratch.ray_directory({"RAY_TMPDIR": str(base)})
    assert scratch.ray_directory({"TMPDIR": str(base)}).parent.parent != base


def test_directory_that_others_could_only_read_is_closed_and_used(tmp_path: Path) -> None:
    base = short(tmp_path)
    folder = base / f"sia-{os.geteuid()}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    assert scratch.ray_directory({"RAY_TMPDIR": str(base)}).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_directory_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, mine = short(tmp_path), os.geteuid()
    (base / f"sia-{mine + 1}").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(ServiceError, match="belongs to another user"):
        scratch.ray_directory({"RAY_TMPDIR": str(base)})


def test_failed_start_of_ray_names_its_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_TMPDIR", str(short(tmp_path)))
    with pytest.raises(ServiceError) as caught:
        cluster.connect()
    assert str(scratch.ray_directory()) in caught.value.hint


def test_ray_address_auto_without_a_ray_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [SimpleNamespace(info={"name": "python"})]
    monkeypatch.setattr(psutil, "process_iter", lambda _: iter(processes))
    with pytest.raises(ServiceError, match="no Ray runs on this machine") as caught:
        external.check_ray({"RAY_ADDRESS": "auto"})
    assert "unset RAY_ADDRESS" in caught.value.hint
    processes.append(SimpleNamespace(info={"name": "raylet"}))
    external.check_ray({"RAY_ADDRESS": "auto"})


def test_token_of_ray_is_private(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    texts = set()
    for _ in range(2):
        provide_token(tmp_path, environment)
        file = Path(environment.pop("RAY_AUTH_TOKEN_PATH"))
        assert file.stat().st_mode & 0o777 == 0o600
        texts.add(file.read_text())
    assert len(texts) == 1
    environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "gone" / tmp_path.name / "auth_token")  # Of an earlier cluster.
    provide_token(tmp_path, environment)
    assert Path(environment.pop("RAY_AUTH_TOKEN_PATH")).is_file()
    given = {**environment, "RAY_AUTH_TOKEN": "mine"}
    provide_token(tmp_path, given)
    assert given == {**environment, "RAY_AUTH_TOKEN": "mine"}


# Stores of MLflow


@pytest.mark.parametrize("store", ["./mlruns", "mlruns", "/data/mlruns", "file:///data/mlruns", "file:mlruns"])
def test_directory_as_mlflow_store_is_refused_by_run_and_doctor(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(ServiceError, match="no longer keeps runs in a directory"):
        external.check_all()
    found = check_mlflow()
    assert (found.status, found.code) == ("failed", 8) and "unset MLFLOW_TRACKING_URI" in found.fix


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "mysql+pymysql"])
def test_database_that_does_not_listen_is_seen_beforehand(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{free_port()}/mlflow")
    found = check_mlflow()
    assert (found.status, found.code) == ("failed", 8) and "Connection refused" in found.seen
    assert "secret" not in found.seen + found.fix


# Shared memory, temporary files, open files, loopback


@pytest.mark.parametrize(("free", "size", "in_memory"), [(16, 128, False), (0, 128, False), (500, 450, True)])
def test_object_store_is_bounded_by_shared_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, size: int, in_memory: bool
) -> None:
    monkeypatch.setattr(scratch, "_free", lambda _: free * scratch.MEGABYTE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * 10**9))
    found = scratch.object_store()
    assert found == size * scratch.MEGABYTE and scratch.in_shared_memory(found) is in_memory
    assert bool(scratch.check_shared_memory().fix) is not in_memory


def test_object_store_is_left_to_ray_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_free", lambda _: 4 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * 10**9))
    assert scratch.object_store() is None and not scratch.check_shared_memory().fix


def test_missing_shared_memory_is_a_warning(tmp_path: Path) -> None:
    assert "--shm-size" in scratch.check_shared_memory(tmp_path / "nowhere").fix


@pytest.mark.parametrize("usage", [{"f_bavail": 10}, {"f_favail": 0}])
def test_full_temporary_directory_is_refused(usage: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(**{"f_bavail": 10**6, "f_frsize": 4096, "f_files": 100, "f_favail": 100, **usage})
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(RecordError, match="free, a run needs 100 MB") as caught:
        scratch.check_temporary()
    assert "TMPDIR" in caught.value.hint
    with pytest.raises(ServiceError, match="has only"):
        scratch.ray_directory({})


def test_unwritable_temporary_directories_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(RecordError, match="no directory for temporary files") as caught:
        scratch.check_temporary()
    assert "export TMPDIR=" in caught.value.hint


def limited(soft: int, hard: int, code: str) -> str:
    """Run code in a process with this limit of open files."""
    done = subprocess.run(
        [sys.executable, "-c", f"from sia_core.host.machine import descriptors\n{code}"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    ask = "import resource; print(descriptors.raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert limited(256, 1024, ask) == "1024 1024 1024"


def test_few_open_files_are_a_warning_and_too_few_are_refused() -> None:
    assert limited(512, 512, "print(descriptors.check_descriptors().fix)").startswith("ulimit -n")
    refused = "try: descriptors.check_descriptors()\nexcept Exception as error: print(type(error).__name__, error)"
    assert "ServiceError ulimit -n: only 200 files" in limited(200, 200, refused)


def test_loopback_that_is_down_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(ServiceError, match="Network is unreachable") as caught:
        loopback.check_loopback()
    assert "ip link set lo up" in caught.value.hint


# Settings of Prefect


def test_prefect_without_settings_of_yours_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_readable", lambda *_: pytest.fail("a process was started"))
    (tmp_path / "pyproject.toml").write_text('dependencies = ["prefect"]')
    for own in ({}, {"PREFECT_PROFILE": "work"}, {"PREFECT_SERVER_API_AUTH_STRING": "a:b"}):
        assert settings.check_settings(own, tmp_path).seen == "Prefect's own defaults"


@pytest.mark.parametrize(("name", "value"), [("PREFECT_LOGGING_LEVEL", "silly"), ("PREFECT_CLIENT_MAX_RETRIES_X", "3")])
def test_settings_are_tried_and_the_wrong_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setattr(settings, "_readable", lambda environment, _: environment.get(name) != value)
    with pytest.raises(ServiceError) as caught:
        settings.check_settings({name: value, "PREFECT_LOGGING_COLORS": "1"}, tmp_path)
    assert caught.value.where == name and caught.value.hint == f"unset {name}"


def test_wrong_file_of_the_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_readable", lambda *_: False)
    (tmp_path / ".env").write_text("PREFECT_LOGGING_LEVEL=silly\n")
    with pytest.raises(ServiceError) as caught:
        settings.check_settings({}, tmp_path)
    assert caught.value.where == str(tmp_path / ".env")


@pytest.mark.slow
def test_prefect_itself_reads_right_settings_and_refuses_wrong_ones(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    assert settings.check_settings({**kept, "PREFECT_LOGGING_LEVEL": "DEBUG"}, tmp_path).seen.endswith("LOGGING_LEVEL")
    with pytest.raises(ServiceError):
        settings.check_settings({**kept, "PREFECT_LOGGING_LEVEL": "silly"}, tmp_path)
    settings.check_settings({**kept, "PREFECT_PROFILE": "nope", "PREFECT_API_URL": DEAD}, tmp_path)  # Only a warning.


def test_own_prefect_gets_no_profile_and_no_login(tmp_path: Path) -> None:
    environment = {
        "PREFECT_PROFILE": "work",
        "PREFECT_API_KEY": "key",
        "PREFECT_API_AUTH_STRING": "a:b",
        "PREFECT_SERVER_API_AUTH_STRING": "a:b",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    settings.leave_out(tmp_path, environment)
    kept = {"PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_HOME", "PREFECT_PROFILES_PATH"}
    assert set(environment) == kept and environment["PREFECT_HOME"] == str(tmp_path / "prefect")


USER_S = {
    "PREFECT_SERVER_API_AUTH_STRING": "a:b",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nowhere/db",
    "PREFECT_PROFILE": "nope",
    "MLFLOW_STATIC_PREFIX": "/mlflow",
    "MLFLOW_AUTH_CONFIG_PATH": "/nowhere.ini",
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////elsewhere.db",
    "MLFLOW_TRACKING_USERNAME": "me",
    "_MLFLOW_SERVER_FILE_STORE": "sqlite:////elsewhere.db",
}


@pytest.mark.parametrize("name", USER_S)
def test_settings_for_another_server_are_kept_from_ours(name: str) -> None:
    service = prefect_service() if name.startswith("PREFECT") else mlflow_service()
    assert service.dropped(name)
    assert not service.dropped("PATH") and not prefect_service().dropped("PREFECT_LOGGING_LEVEL")
    assert not mlflow_service().dropped("MLFLOW_S3_ENDPOINT_URL")


# One door


@pytest.mark.parametrize("subject", checks.CHECKS)
def test_condition_that_stops_a_run_is_seen_by_the_doctor(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Condition:
        raise ServiceError("is missing", where="this machine", hint="add it")

    monkeypatch.setattr(checks, "CHECKS", {**checks.CHECKS, subject: fail})
    monkeypatch.setattr("sia_core.doctor.machine.CHECKS", checks.CHECKS)
    with pytest.raises(SiaError, match="is missing"):
        cli_servers.launch_prefect()
    found = check_condition(subject)
    assert (found.status, found.fix, found.code) == ("failed", "add it", 8)


@pytest.mark.parametrize("subject", checks.CHECKS)
def test_condition_of_this_machine_lets_a_run_start(subject: str) -> None:
    assert check_condition(subject).status in ("ok", "warning")

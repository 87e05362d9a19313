"""Follow what verbs print: each link answers and shows this store, and each command can be typed."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import click
import psutil
import pytest
import typer

from flows import links as flow_links
from sia_core.cli import servers as cli_servers
from sia_core.cli.main import app
from sia_core.domain.errors import ServiceError
from sia_core.host import external, servers
from sia_core.host.services import Service, mlflow_service
from sia_core.loop import create_run
from sia_core.record.store import open_record
from tests.e2e.conftest import TOY, Sia
from tests.report.made import make_run

LINK = re.compile(r"https?://[^\s\"'<>)\]]+")
COMMAND = re.compile(r"\bsia (?=[a-z])([^;,()\n`:]+)")


@pytest.fixture
def alone(store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a store, no servers, and no servers named by the environment."""
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "MLFLOW_TRACKING", "SIA_OWN")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SIA_HOME", str(store_home))
    return store_home


def pretend(home: Path, service: Service, pid: int, port: int) -> None:
    """Write what an earlier command would have left."""
    (home / "services").mkdir(exist_ok=True)
    state = {"name": service.name, "pid": pid, "port": port, "code": "c"}
    servers._state(service, home).write_text(json.dumps(state))


@pytest.fixture
def another(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Process and port of a server of another home, with the words of MLflow's command, which is healthy."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "health").write_text("OK")
    code = (
        "import http.server as h; s = h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); "
        "print(s.server_port, flush=True); s.serve_forever()"
    )
    words = [sys.executable, "-u", "-c", code, "mlflow", "server"]
    with subprocess.Popen(words, cwd=other, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


def test_opened_store_does_not_pass_for_a_server_of_yours(alone: Path) -> None:
    open_record(alone, None)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert external.mlflow_server() is None


@pytest.mark.control
def test_named_store_stays_named_after_opening(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{alone / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    open_record(alone, uri)
    assert os.environ["MLFLOW_TRACKING_URI"] == uri


def test_mlflow_that_does_not_run_has_no_address(alone: Path) -> None:
    assert create_run.mlflow_address() is None


def test_server_of_another_home_is_not_linked_to(
    alone: Path, another: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, port = another
    pretend(alone, mlflow_service(), pid, port)
    assert servers._healthy(mlflow_service(), port)
    assert create_run.mlflow_address() is None
    pretend(alone.parent / "other", mlflow_service(), pid, port)
    monkeypatch.setenv("SIA_HOME", str(alone.parent / "other"))
    assert create_run.mlflow_address() == f"http://127.0.0.1:{port}"


def test_server_whose_port_was_taken_by_another_is_not_linked_to(alone: Path, another: tuple[int, int]) -> None:
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "mlflow", "server"], cwd=alone) as ours:
        try:
            pretend(alone, mlflow_service(), ours.pid, another[1])
            assert create_run.mlflow_address() is None
        finally:
            ours.kill()


@pytest.mark.parametrize("state", ["", "{", "[]", '{"pid": 1}', '{"name": "mlflow", "pid": "x", "port": 1}'])
def test_broken_state_of_a_server_is_no_server(alone: Path, state: str) -> None:
    (alone / "services").mkdir()
    servers._state(mlflow_service(), alone).write_text(state)
    assert create_run.mlflow_address() is None


def test_database_of_yours_is_shown_by_a_server_of_its_own(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    service = create_run.own_mlflow()
    assert service is not None
    assert servers._state(service, alone) != servers._state(mlflow_service(), alone)
    assert not any("secret" in word for word in service.command(alone, 1)), "`ps` shows arguments to everyone"
    assert service.environment(alone, 1)["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@db/mlflow"


def test_relative_database_is_the_one_of_this_directory(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(alone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    service = create_run.own_mlflow()
    assert service is not None
    assert service.environment(alone, 1)["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{alone / 'runs.db'}"


def test_server_named_by_you_is_linked_to_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/sub")
    assert create_run.mlflow_address() == "https://mlflow.example/sub"
    assert create_run.own_mlflow() is None


@pytest.mark.parametrize(
    ("api", "page"),
    [
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200"),
        ("https://prefect.example/sub/api", "https://prefect.example/sub"),
        (
            "https://api.prefect.cloud/api/accounts/11/workspaces/22",
            "https://app.prefect.cloud/account/11/workspace/22",
        ),
    ],
)
def test_pages_of_prefect_are_found_by_its_api(api: str, page: str) -> None:
    assert external.prefect_ui(api, {}) == page
    assert external.prefect_ui(api, {"PREFECT_UI_URL": "https://me:pw@ui.example/"}) == "https://ui.example"


def test_own_prefect_does_not_pass_for_a_server_of_yours() -> None:
    environment: dict[str, str] = {}
    external.use_own_prefect("http://127.0.0.1:4200/api", "sia:secret", environment)
    assert environment["PREFECT_API_URL"] and external.prefect_server(environment) is None
    environment["PREFECT_API_URL"] = "http://prefect.example/api"
    assert external.prefect_server(environment) is not None


def test_links_without_servers_are_the_command_that_starts_them(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(open_record(alone, None))
    cli_servers.print_links()
    out = capsys.readouterr().out
    assert out.count("not running; start it: sia ui") == 2 and not LINK.findall(out)


def test_runs_of_another_home_and_format_are_not_linked_to(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = open_record(alone, None)
    ours, other, old = (make_run(record, with_generations=False) for _ in range(3))
    record.client.set_tag(other.run_id, "sia.task_digest", "forged")
    record.client.set_tag(old.run_id, "sia.format", "sia-record/1")
    monkeypatch.setattr(create_run, "mlflow_address", lambda: "http://127.0.0.1:9")
    cli_servers.print_links()
    out = capsys.readouterr().out
    assert ours.name in out and other.name not in out and old.name not in out


def test_flow_run_that_prefect_does_not_know_is_not_linked_to(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(open_record(alone, None))
    run.set_tags({"sia.prefect_run": "11111111-1111-1111-1111-111111111111"})
    monkeypatch.setattr(cli_servers, "_prefect_api", lambda: "http://127.0.0.1:9/api")
    cli_servers.print_links([run])
    assert "Prefect http://127.0.0.1:9\n" in (out := capsys.readouterr().out) and "flow-run" not in out


def test_ui_that_does_not_start_is_no_failure_of_the_run(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ServiceError("mlflow did not come up on port 5000", where="mlflow.log", hint="read that log")

    run = make_run(open_record(alone, None))
    monkeypatch.setattr(cli_servers, "start", fail)
    cli_servers.show(run)
    out = capsys.readouterr().out
    assert "read that log" in out and "start it: sia ui" in out


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:5000"])
def test_artifact_in_prefect_is_a_link_only_while_mlflow_answers(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, tuple[Any, ...]]] = []
    for name in ("create_link_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(flow_links, name, lambda *words, name=name: made.append((name, words)))
    monkeypatch.setattr(flow_links, "mlflow_address", lambda: address)
    flow_links.link_to_mlflow(lambda base: f"{base}/#/runs/7", "run 7", "key", "about")
    ((kind, words),) = made
    if address:
        assert (kind, words[0]) == ("create_link_artifact", f"{address}/#/runs/7")
    else:
        assert kind == "create_markdown_artifact" and "sia ui" in words[0] and "/#/runs/7" in words[0]


# Every verb


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Sia]:
    """The command line with servers of its own."""
    home = tmp_path_factory.mktemp("links") / "home"
    home.mkdir()
    shutil.copy(empty_store, home)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "SIA_"))}
    sia = Sia(home, {**kept, "SIA_HOME": str(home), "COLUMNS": "200"})
    yield sia
    sia("ui", "--stop")
    left = [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(home)]
    assert not left, left


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as reply:
        assert reply.status == 200
        text = reply.read().decode(errors="replace")
    return json.loads(text) if text.startswith(("{", "[")) else text


def follow(link: str, runs: set[str]) -> None:
    """Open a link, and ask the server behind it for what the page shows."""
    base, _, page = link.rstrip(".").partition("/#/")
    assert read(base)
    ids = re.findall(r"/runs/([0-9a-f]{32})", link)
    if "compare-runs" in page:
        ids = json.loads(parse_qs(unquote(page.partition("?")[2]))["runs"][0])
    for run_id in ids:
        info = read(f"{base}/api/2.0/mlflow/runs/get?run_id={run_id}")["run"]["info"]
        assert info["run_name"] in runs
    flow_run = re.search(r"(http://[^/]+)/runs/flow-run/([0-9a-f-]{36})", link)
    if flow_run:
        assert read(f"{flow_run[1]}/api/flow_runs/{flow_run[2]}")["id"] == flow_run[2]


def follow_all(text: str, runs: set[str]) -> list[str]:
    """Follow each link of an output, and see that each command of SIA's can be typed; return the links."""
    found = LINK.findall(text)
    for link in found:
        follow(link, runs)
    for words in COMMAND.findall(text):
        check_command(words)
    return found


def check_command(text: str) -> None:
    """See that the longest beginning of the text which is a command has all its options."""
    words = text.replace("...", "").strip().rstrip(".").split()
    errors = []
    for count in range(len(words), 0, -1):
        try:
            parse(typer.main.get_command(app), words[:count])
        except click.ClickException as error:
            errors.append(error.format_message())
        except Exception as error:  # noqa: BLE001  (Typer carries a copy of click with classes of its own)
            if getattr(error, "exit_code", 1) == 0:  # --help
                return
            errors.append(str(getattr(error, "message", error)))
        else:
            left = [word for word in words[count:] if word.startswith("--")]
            assert not left, f"sia {text}: {errors}"
            return
    raise AssertionError(f"sia {text}: {errors}")


def parse(command: Any, words: list[str]) -> None:
    """Parse words as the command line does, without running anything."""
    context = command.make_context("sia", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, rest, parent=context)


@pytest.mark.control
@pytest.mark.parametrize("text", ["resume toy-1 --nothing", "nonsense RUN", "report", "ui --mlflow-port x"])
def test_command_that_cannot_be_typed_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        check_command(text)


@pytest.mark.control
@pytest.mark.parametrize(
    "text", ["resume toy-1 --generations 3", "ui --stop first", "ui", "status toy-1 and see", "data fetch lawbench"]
)
def test_command_within_a_sentence_is_parsed(text: str) -> None:
    check_command(text)


def test_commands_in_the_sources_of_messages_parse() -> None:
    """Hints without placeholders; those with any are formatted at run time and followed below."""
    root = Path(servers.__file__).parents[1]
    texts = [file.read_text() for file in (*root.rglob("*.py"), *(root.parent / "flows").rglob("*.py"))]
    hints = {
        found for text in texts for found in re.findall(r"(?:next|type|it|or|see|:) sia ([a-z][\w ./=-]*)[\"';,]", text)
    }
    assert len(hints) > 5
    for hint in hints:
        check_command(hint)


@pytest.mark.slow
def test_everything_that_verbs_print_can_be_followed(own: Sia, tmp_path: Path) -> None:
    few = ("--generations", "1", "--problems", "2", "--rollouts", "2", "--test-problems", "4", "--policy", "scripted")
    said = own("run", str(TOY), *few, "--seed", "1")
    first = own.run()
    runs = {first.name}
    linked = follow_all(said, runs)
    assert any(first.run_id in link for link in linked), said
    assert any(first.tags["sia.prefect_run"] in link for link in linked), said
    ports = {re.sub(r"(:\d+).*", r"\1", link) for link in linked}

    said = own("retry", first.name, "--generation", "1", "--fork", "--set", "levers=harness")
    record = open_record(own.home, None)
    runs |= {item.name for item in record.summaries()}
    second = next(name for name in runs if name != first.name)
    assert any(record.open(second).run_id in link for link in follow_all(said, runs)), said

    task = tmp_path / "made"
    verbs: list[tuple[str, ...]] = [
        ("status",),
        ("status", first.name),
        ("watch", first.name),
        ("report", first.name, "--out", str(tmp_path / "report.html")),
        ("export", first.name, "--out", str(tmp_path / "export")),
        ("deploy",),
        ("ui",),
        ("init", str(task)),
        ("check", str(TOY)),
        ("data", "list"),
        ("run", str(TOY), "--policy", "scripted", "--dry-run"),
        ("arms", str(TOY), "--policy", "scripted", "--dry-run"),
    ]
    for words in verbs:
        follow_all(own(*words, code=None), runs)
    assert any("compare-runs" in link for link in follow_all(own("compare", first.name, second), runs))
    refused: list[tuple[str, ...]] = [
        ("resume", first.name),
        ("resume", "nothing"),
        ("approve", first.name),
        ("status", "nothing"),
    ]
    for words in refused:
        follow_all(own(*words, code=None), runs)

    assert {re.sub(r"(:\d+).*", r"\1", link) for link in LINK.findall(own("ui"))} == ports
    own("ui", "--stop")
    for more in ([], ["--json"]):
        said = own("compare", first.name, second, *more)
        assert not LINK.findall(said) and ("sia ui" in said or '"mlflow": null' in said)
    said = own("deploy")
    links = follow_all(said, runs)
    assert links and not any(first.run_id in link for link in links) and "start it: sia ui" in said

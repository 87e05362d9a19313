"""Other users of the machine, and other pages in your browser, reach nothing of a run and its servers."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sia_core.host.password import basic, password, password_file
from tests.e2e.conftest import TOY, Finished, Sia, processes_of
from tests.e2e.test_resume import rollouts_done, wait_until
from tests.e2e.test_ui import alone

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOBODY = 65534
OPEN = {("/api/health", "GET"), ("/api/ready", "GET")}
"""Routes of Prefect that answer everybody: no more than that the server is up."""

ASK = """
import json, sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for line in sys.stdin:
    asked = json.loads(line)
    request = urllib.request.Request(asked["url"], data=asked.get("data", "").encode() or None, method=asked["method"],
                                     headers={"Content-Type": "application/json", **asked.get("headers", {})})
    try:
        with opener.open(request, timeout=30) as reply:
            print(json.dumps([reply.status, reply.read(300).decode(errors="replace")]))
    except urllib.error.HTTPError as error:
        print(json.dumps([error.code, error.read(300).decode(errors="replace")]))
"""
"""Program that sends requests and prints status and beginning of each reply."""

ROUTES = """
import json
from prefect.server.api.server import create_app
routes = create_app().api_app.routes
print(json.dumps([[f"/api{one.path}", method] for one in routes for method in getattr(one, "methods", None) or ()]))
"""
"""Program that prints path and method of each route of Prefect's API."""

LISTEN = """
import asyncio, sys, websockets
async def main(url, token):
    try:
        async with websockets.connect(url, subprotocols=["prefect"]) as socket:
            if token != "-":
                await socket.send('{"type": "auth", "token": ' + token + '}')
            await socket.send('{"type": "filter", "filter": {"occurred": {}}}')
            for _ in range(5):
                print(await asyncio.wait_for(socket.recv(), 5))
    except Exception as error:
        print("closed:", type(error).__name__, error)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def home(finished: Finished, prefect_home: Path) -> Iterator[tuple[Sia, str, str]]:
    """The command line with servers of its own, and their addresses."""
    with alone(finished.sia, prefect_home) as own:
        own("ui")
        state = {one: json.loads((own.home / "services" / f"{one}.json").read_text()) for one in ("prefect", "mlflow")}
        prefect, mlflow = (f"http://127.0.0.1:{state[one]['port']}" for one in ("prefect", "mlflow"))
        yield own, prefect, mlflow


def ask(*requests: dict[str, Any], user: int | None = NOBODY) -> list[tuple[int, str]]:
    """Send requests as another user of this machine."""
    if user is not None and os.geteuid() != 0:
        user = None  # Nobody else's rights are at hand, and none are needed to connect.
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    words = ["/usr/bin/env", "python3", "-I", "-c", ASK]
    done = subprocess.run(
        words, input=lines, capture_output=True, text=True, timeout=300, check=True, user=user, cwd="/"
    )
    return [(code, text) for code, text in map(json.loads, done.stdout.splitlines())]


@pytest.mark.slow
def test_other_user_is_refused_by_every_route_of_prefect(home: tuple[Sia, str, str]) -> None:
    own, prefect, _ = home
    login = basic(password(own.home))
    ((code, _),) = ask({"url": f"{prefect}/api/admin/version", "method": "GET", "headers": login})
    assert code == 200, "the positive control"
    words = [sys.executable, "-c", ROUTES]
    listed = subprocess.run(words, env=own.environment, capture_output=True, text=True, timeout=120, check=True)
    routes = [(path, method) for path, method in json.loads(listed.stdout.splitlines()[-1])]
    assert len(routes) > 150
    requests = [
        {"url": prefect + path.replace("{", "").replace("}", ""), "method": method, "data": "{}" * (method != "GET")}
        for path, method in routes
    ]
    replies = ask(*requests)
    let_in = {route for route, (code, _) in zip(routes, replies, strict=True) if code != 401}
    assert let_in <= OPEN, let_in


@pytest.mark.slow
def test_other_user_is_refused_by_mlflow(home: tuple[Sia, str, str]) -> None:
    own, _, mlflow = home
    paths = ["/", "/api/2.0/mlflow/experiments/search", "/ajax-api/2.0/mlflow/runs/search", "/graphql", "/v1/traces"]
    paths += ["/get-artifact?path=config.json&run_uuid=x", "/api/2.0/mlflow-artifacts/artifacts", "/static-files/x"]
    requests = [{"url": mlflow + path, "method": method} for path in paths for method in ("GET", "POST", "DELETE")]
    assert {code for code, _ in ask(*requests)} == {401}
    search = {"url": f"{mlflow}{paths[1]}?max_results=1", "method": "GET"}
    ((code, text),) = ask({**search, "headers": basic(password(own.home))})
    assert code == 200 and "experiments" in text, "the positive control"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_user_reads_no_file_of_the_home(home: tuple[Sia, str, str]) -> None:
    own, _, _ = home
    for file in (password_file(own.home), own.home / "key", own.home / "mlflow.db", own.home / "ui.html"):
        assert file.read_bytes()
        done = subprocess.run(["/bin/cat", str(file)], user=NOBODY, capture_output=True, check=False)
        assert done.returncode != 0 and not done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/events/in", "/events/out", "/logs/out", "/task_runs/subscriptions/scheduled"])
def test_other_user_is_refused_by_the_sockets_of_prefect(home: tuple[Sia, str, str], path: str) -> None:
    _, prefect, _ = home
    url = prefect.replace("http", "ws") + "/api" + path
    for token in ("-", '""', '"sia:wrong"', "null"):
        words = [sys.executable, "-c", LISTEN, url, token]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        assert "closed:" in done.stdout and "auth_success" not in done.stdout, (token, done.stdout)


@pytest.mark.slow
def test_page_of_another_origin_is_refused(home: tuple[Sia, str, str], chromium: "Browser") -> None:
    """A page elsewhere asks both servers, in a browser that is logged in."""
    own, prefect, mlflow = home
    context = chromium.new_context()
    page = context.new_page()
    page.goto((own.home / "ui.html").as_uri())
    links = page.get_by_role("link").evaluate_all("links => links.slice(0, 2).map((link) => link.href)")
    for link in links:
        page.goto(link)
        page.wait_for_url(lambda url: "/sia/login" not in url)
    ours = "async (url) => (await fetch(url, {method: 'GET'})).status"
    assert page.evaluate(ours, f"{mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=1") == 200
    context.route("http://evil.example/", lambda route: route.fulfill(body="<h1>evil</h1>", content_type="text/html"))
    page.goto("http://evil.example/")
    tried = """async ([url, mode]) => {
        const how = {method: 'POST', mode, credentials: 'include', body: '{}', headers: {'Content-Type': 'text/plain'}};
        try { return (await (await fetch(url, how)).text()).slice(0, 100) } catch (error) { return 'refused' }
    }"""
    for url in (f"{prefect}/api/deployments/", f"{prefect}/sia/login", f"{mlflow}/ajax-api/2.0/mlflow/runs/create"):
        assert page.evaluate(tried, [url, "cors"]) == "refused"
    context.close()


def listeners(home: Path) -> set[str]:
    """Addresses at which the processes of a home listen."""
    found = set[str]()
    for process in processes_of(home):
        try:
            found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


def open_to_others(home: Path) -> list[Path]:
    """Files and directories that other users could read or write, were the home open to them."""
    return [path for path in (home, *home.rglob("*")) if path.exists() and stat.S_IMODE(path.lstat().st_mode) & 0o077]


@pytest.mark.slow
def test_run_listens_on_the_loopback_and_leaves_nothing_behind(sia: Sia, prefect_home: Path) -> None:
    with alone(sia, prefect_home) as own:
        words = ("run", str(TOY), "--policy", "scripted", "--no-ui", "--generations", "1", "--rollouts", "400")
        process = own.start(*words)
        wait_until(lambda: rollouts_done(own) >= 20 or process.poll() is not None, seconds=300)
        assert process.poll() is None, process.communicate()[0]
        found = listeners(own.home)
        assert found and found <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, found
        assert not open_to_others(own.home)
        token = next(
            Path(one.environ()["RAY_AUTH_TOKEN_PATH"]) for one in processes_of(own.home) if one.name() == "raylet"
        )
        assert stat.S_IMODE(token.stat().st_mode) == 0o600 and stat.S_IMODE(token.parent.stat().st_mode) == 0o700
        assert any("prefect_server" in " ".join(one.cmdline()) for one in processes_of(own.home))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not processes_of(own.home), seconds=60)


@pytest.mark.slow
def test_server_of_a_run_ends_with_it_unless_the_uis_are_kept(sia: Sia, prefect_home: Path) -> None:
    with alone(sia, prefect_home) as own:
        words = ("run", str(TOY), "--policy", "scripted", "--levers", "", "--generations", "1", "--rollouts", "2")
        own(*words, "--no-ui")
        deadline = time.monotonic() + 5
        while processes_of(own.home) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes_of(own.home)
        kept = own(*words, "--ui")
        assert "both stay up until: sia ui --stop" in kept
        assert password(own.home) not in kept and "code=" not in kept
        assert len({one.cmdline()[-1] for one in processes_of(own.home)}) >= 2
        own("ui", "--stop")
        assert not processes_of(own.home)

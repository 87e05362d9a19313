"""Every attack of the table fails in every mode, as the current and an unprivileged user. Every control works."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.engine.sandbox.attacks.attack import EVERY, Mode
from tests.engine.sandbox.attacks.scene import PROJECT
from tests.engine.sandbox.attacks.suite import ATTACKS, HELD, NO_CONTROL, attacks_for
from tests.engine.sandbox.conftest import as_nobody, open_interpreter, system_python

Pair = tuple[Mode, str]
Runs = dict[Pair, "Future[dict[str, Any]]"]
_DEFAULT: tuple[Pair, ...] = (
    ("strict", "self"),
    ("strict", "nobody"),
    ("strict+subprocesses", "self"),
    ("landlock", "nobody"),
)
_SLOW: tuple[Pair, ...] = tuple(
    (mode, user) for mode in EVERY for user in ("self", "nobody") if (mode, user) not in _DEFAULT
)
_AT_ONCE = 4


def _run(mode: Mode, user: str) -> dict[str, Any]:
    python = sys.executable
    if user == "nobody" or (mode.startswith("landlock") and not open_interpreter()):
        python = system_python()
    command = [python, "-m", "tests.engine.sandbox.attacks", mode]
    if user == "nobody":
        command = [*as_nobody(), *command]
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PYTHONPATH": f"{PROJECT}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def runs(bwrap: str) -> Iterator[Runs]:
    """The pairs of the default suite, all at once: they mostly wait."""
    chosen = [pair for pair in _DEFAULT if pair[1] == "self" or os.geteuid() == 0]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {pair: pool.submit(_run, *pair) for pair in chosen}


@pytest.mark.parametrize(("mode", "user"), _DEFAULT)
def test_every_attack_fails(runs: Runs, mode: Mode, user: str) -> None:
    if (mode, user) not in runs:
        pytest.skip("this user is unprivileged already")
    _check(mode, runs[mode, user].result())


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "user"), _SLOW)
def test_every_attack_fails_in_the_other_modes(bwrap: str, mode: Mode, user: str) -> None:
    _check(mode, _run(mode, user))


def _check(mode: Mode, report: dict[str, Any]) -> None:
    outcomes = report["outcomes"]
    assert len(outcomes) == len(attacks_for(mode))
    root_only = {attack.name for attack in ATTACKS if attack.root}
    uncontrolled = {name for name, ended in outcomes.items() if ended == NO_CONTROL}
    assert uncontrolled <= (root_only if report["uid"] else set())
    assert {name: ended for name, ended in outcomes.items() if ended not in (HELD, NO_CONTROL)} == {}
    assert report["left"] == []


def test_attack_table_is_large_and_names_are_unique() -> None:
    assert len(ATTACKS) >= 200
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)

"""Faults that can happen to a run, and the check that the run ends as without them: for tests and bench/chaos.py."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil

from sia_core.host.servers import ensure, find, stop
from sia_core.host.services import prefect_service
from tests.e2e.conftest import TOY, Sia, processes_of
from tests.e2e.test_resume import outcome, rollouts_done
from tests.services.daemon import Daemon

SMALL = ("--levers", "harness", "--generations", "1", "--problems", "3", "--rollouts", "2", "--seed", "3")
"""A short run with every phase, rewrite and gate among them."""
WORDS = ("run", str(TOY), "--policy", "scripted", "--no-ui", *SMALL)
_GONE_S = 60.0
"""Seconds that Ray may take on a busy machine to notice that its driver is dead."""
_HUNG_S = 1800.0
_SITTINGS = 4


def served(url: str) -> dict[str, str]:
    """Environment of a run that writes to an MLflow server, which hangs once it is silent for ten seconds."""
    return {"MLFLOW_TRACKING_URI": url, "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@dataclass
class Victim:
    """A run and the servers that a fault may hit."""

    sia: Sia
    random: Random
    process: subprocess.Popen[str]
    mlflow: Callable[[], Daemon] | None = None
    """Starts the run's own MLflow server, if the run has such a server."""
    server: Daemon | None = None
    prefect: Path | None = None
    """Home of the run's Prefect server, if no other run uses that server."""

    def below(self, *names: str) -> list[psutil.Process]:
        """Descendants of the driver whose name or command begins with a text."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    if process.name().startswith(names) or " ".join(process.cmdline()).startswith(names):
                        found.append(process)
        return found

    def kill_one(self, *names: str) -> bool:
        """Kill a process among them. False if there is none."""
        found = sorted(self.below(*names), key=lambda process: process.pid)
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            self.random.choice(found).kill()
        return True


Strike = Callable[[Victim], bool]
"""Causes the fault; False if nothing was there to hit."""


def _signal(number: signal.Signals) -> Strike:
    def strike(victim: Victim) -> bool:
        victim.process.send_signal(number)
        return True

    return strike


def _freeze(victim: Victim) -> bool:
    victim.process.send_signal(signal.SIGSTOP)
    time.sleep(victim.random.uniform(2, 8))
    victim.process.send_signal(signal.SIGCONT)
    return True


def _restart_mlflow(victim: Victim) -> bool:
    if victim.mlflow is None or victim.server is None:
        return False
    victim.server.stop(victim.random.choice((signal.SIGTERM, signal.SIGKILL)))
    time.sleep(victim.random.uniform(1, 8))
    victim.server = victim.mlflow().wait()
    return True


def _freeze_mlflow(victim: Victim) -> bool:
    if victim.server is None:
        return False
    os.killpg(victim.server.pid, signal.SIGSTOP)
    time.sleep(victim.random.uniform(12, 25))
    os.killpg(victim.server.pid, signal.SIGCONT)
    return True


def _restart_prefect(victim: Victim) -> bool:
    home = victim.prefect
    running = find(prefect_service(), home) if home else None
    if home is None or running is None:
        return False
    stop(prefect_service(), home)
    time.sleep(victim.random.uniform(1, 8))
    ensure(prefect_service(), home, port=running.port)
    return True


FAULTS: Mapping[str, Strike] = {
    "SIGKILL driver": _signal(signal.SIGKILL),
    "SIGKILL Ray worker": lambda victim: victim.kill_one("ray::RolloutActor"),
    "SIGKILL policy actor": lambda victim: victim.kill_one("ray::PolicyActor"),
    "SIGKILL raylet": lambda victim: victim.kill_one("raylet"),
    "SIGKILL GCS": lambda victim: victim.kill_one("gcs_server"),
    "SIGKILL zygote": lambda victim: victim.kill_one("bwrap"),
    "SIGTERM driver": _signal(signal.SIGTERM),
    "SIGINT driver": _signal(signal.SIGINT),
    "SIGSTOP driver": _freeze,
    "MLflow restarted": _restart_mlflow,
    "MLflow SIGSTOP": _freeze_mlflow,
    "Prefect restarted": _restart_prefect,
}
NEEDS_SERVER = ("MLflow restarted", "MLflow SIGSTOP")
GOES_ON = ("SIGKILL Ray worker", "SIGKILL zygote", "SIGSTOP driver", *NEEDS_SERVER, "Prefect restarted")
"""Faults after which the run continues by itself."""
ENDS_SO = {"SIGKILL driver": -signal.SIGKILL, "SIGTERM driver": 130, "SIGINT driver": 130}


@dataclass(frozen=True)
class Expected:
    """An undisturbed run's end."""

    outcome: dict[str, Any]
    rollouts: int
    writes: int = 0

    @classmethod
    def of(cls, sia: Sia) -> "Expected":
        """Read the end of a finished run."""
        return cls(outcome(sia), rollouts_done(sia))


@dataclass
class Told:
    """Record of the faults and exits of a run."""

    fault: str
    at: int
    """Rollouts done when the fault happens; in a sweep, writes."""
    struck: bool = True
    codes: list[int] = field(default_factory=list)
    """Exit codes of the run's processes, in order."""
    said: list[str] = field(default_factory=list)
    """Last output of the processes that ended with an error."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def strike_once(
    sia: Sia,
    expected: Expected,
    fault: str,
    random: Random,
    *,
    mlflow: Callable[[], Daemon] | None = None,
    server: Daemon | None = None,
    prefect: Path | None = None,
) -> Told:
    """Start the run, cause the fault at a random moment, resume until the run is finished, and check it."""
    at = random.randrange(expected.rollouts)
    told, began = Told(fault, at), time.monotonic()
    victim = Victim(sia, random, sia.start(*WORDS), mlflow, server, prefect)
    try:
        _wait(lambda: rollouts_done(sia) >= at or victim.process.poll() is not None)
        time.sleep(random.uniform(0, 0.5))  # Between two rollouts too, and among the writes that follow the last.
        alive = victim.process.poll() is None
        told.struck = alive and FAULTS[fault](victim)
        _end(victim.process, told)
        if told.struck and fault in GOES_ON and told.codes[0]:
            told.wrong.append(f"did not go on by itself: {told.codes[0]}")
        if told.struck and told.codes[0] not in (0, ENDS_SO.get(fault, told.codes[0])):
            told.wrong.append(f"ended with {told.codes[0]}")
        see_through(sia, told)
        told.wrong += violations(sia, expected)
    finally:
        if victim.process.poll() is None:
            victim.process.kill()
            victim.process.wait()
        if victim.server is not None:
            victim.server.stop()
    told.seconds = time.monotonic() - began
    return told


def die_at(sia: Sia, expected: Expected, write: int) -> Told:
    """Start, kill just after a write to MLflow, resume and check a run, as `strike_once` does."""
    told, began = Told("SIGKILL after a write", write), time.monotonic()
    _end(_started(sia, write), told)
    if told.codes != [-signal.SIGKILL]:
        told.wrong.append(f"was not killed: {told.codes}")
    if _has_begun(sia):
        see_through(sia, told)
        told.wrong += violations(sia, expected)
    else:
        told.wrong += _leftovers(sia)  # The run has no configuration yet: there is nothing to go on with.
    told.seconds = time.monotonic() - began
    return told


def count_writes(sia: Sia) -> Expected:
    """An undisturbed run, with the number of its writes."""
    told = Told("", 0)
    _end(_started(sia, 0), told)
    assert told.codes == [0], told.wrong
    return replace(Expected.of(sia), writes=len((sia.home / "writes.txt").read_text().splitlines()))


def see_through(sia: Sia, told: Told) -> None:
    """`sia resume` until the run is finished, as it is too where the last write before a kill said so."""
    while told.codes[-1] != 0 and sia.run().status != "FINISHED" and len(told.codes) < _SITTINGS:
        _end(sia.start("resume", sia.run().name, "--no-ui"), told)
    if sia.run().status != "FINISHED":
        told.wrong.append(f"did not finish in {_SITTINGS} sittings")


def violations(sia: Sia, expected: Expected) -> list[str]:
    """List the differences between a finished run and a run without faults."""
    return [*_differences(sia, expected), *_leftovers(sia)]


def _differences(sia: Sia, expected: Expected) -> Iterator[str]:
    run, found = sia.run(), outcome(sia)
    if run.status != "FINISHED":
        yield f"MLflow calls it {run.status}"
    for part in ("nodes", "rollouts", "test"):
        if found[part] != expected.outcome[part]:
            yield f"other {part}"
    if rollouts_done(sia) != expected.rollouts:
        yield f"{rollouts_done(sia)} rollouts in the journal, not {expected.rollouts}"
    for generation in run.generations():
        for name in generation.rollout_sets():
            units = Counter(rollout.unit.key for rollout in generation.rollouts(name))
            if units.most_common(1)[0][1] > 1:
                yield f"a unit twice in {generation.index}/{name}"
    mine = run.record.client.search_runs([run.experiment_id], f"tags.`sia.run` = '{run.name}'")
    # A server that was frozen may have made a bare one late, which is passed over.
    written = [one for one in mine if one.data.params or "sia.phase.execute" in one.data.tags]
    if len(written) != 1 + len(run.generations()):
        yield f"{len(written)} runs in MLflow"


def _leftovers(sia: Sia) -> list[str]:
    deadline = time.monotonic() + _GONE_S
    while (left := processes_of(sia.home)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [f"{process.name()} ({process.pid}) is left" for process in left if process.is_running()]


def _end(process: subprocess.Popen[str], told: Told) -> None:
    """Wait for a process to end. After an error its output must hold the command to resume."""
    try:
        output, _ = process.communicate(timeout=_HUNG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        told.wrong.append(f"hung for {_HUNG_S:.0f} s")
    told.codes.append(process.returncode)
    if process.returncode > 0:
        told.said.append(output[-500:])
        if "sia resume " not in output:
            told.wrong.append("did not say how to go on")


def _started(sia: Sia, write: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.e2e.dying", str(write), str(sia.home / "writes.txt"), *WORDS]
    return subprocess.Popen(
        command,
        env=sia.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )


def _has_begun(sia: Sia) -> bool:
    from sia_core.record.store import open_record

    record = open_record(sia.home, sia.environment.get("MLFLOW_TRACKING_URI"))
    return any(record.open(summary.name).begun for summary in record.summaries())


def _wait(reached: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError("the run did not get as far")
        time.sleep(0.02)

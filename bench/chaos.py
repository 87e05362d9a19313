"""Inject faults at random moments into runs, and check that nothing is lost and nothing is counted twice.

An undisturbed run of the tests' toy task (scripted policy, harness lever) gives the expected end. Until time is up, the
same run is then started afresh, a fault strikes at a seeded moment, and the run is resumed until it is finished. It
must end with the same candidates, scores and decisions, no repeated unit and no process left, and each process that
ended early must have printed how to resume. The runs write to SQLite, or to an MLflow server of their own if MLflow is
restarted or frozen. With --sweep the driver is killed just after each of its writes to MLflow in turn, which is also
before the next one.

The weight lever is not pulled here: its rounds need a model that can be trained (tests/e2e/test_weights.py).

    python -m bench.chaos --seed 1 --minutes 60 [--only "SIGKILL raylet"] [--quick] [--json FILE]
    python -m bench.chaos --sweep [--every 5] [--json FILE]

Exit code 1 on any violation.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random

from sia_core.host.servers import ensure, stop
from sia_core.host.services import prefect_service
from sia_core.record.store import open_record
from tests.e2e.conftest import Sia, make_sia
from tests.e2e.faults import (
    FAULTS,
    NEEDS_SERVER,
    WORDS,
    Expected,
    Told,
    count_writes,
    die_at,
    served,
    strike_once,
)
from tests.services.daemon import free_port, mlflow_server


class Place:
    """Place for runs, each with its own home and store; all share a Prefect server."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._prefect = folder, folder / "prefect"
        self._prefect.mkdir()
        (folder / "empty").mkdir()
        self._api = f"{ensure(prefect_service(), self._prefect, port=None).url}/api"
        open_record(folder / "empty", None)
        self._made = 0

    def sia(self) -> Sia:
        """Return the command line with a fresh home."""
        self._made += 1
        folder = self._folder / str(self._made)
        folder.mkdir()
        return make_sia(folder, self._api, self._folder / "empty" / "mlflow.db")

    def struck(self, expected: Expected, fault: str, random: Random) -> Told:
        """Make a run with the fault."""
        sia = self.sia()
        if fault not in NEEDS_SERVER:
            return strike_once(sia, expected, fault, random, prefect=self._prefect)
        start = partial(mlflow_server, sia.home.parent / "server", free_port())
        server, url = start()
        over_http = replace(sia, environment={**sia.environment, **served(url)})
        return strike_once(over_http, expected, fault, random, mlflow=lambda: start()[0], server=server.wait())


@contextmanager
def place() -> Iterator[Place]:
    """Start the servers, and stop them at the end."""
    with tempfile.TemporaryDirectory(prefix="sia-chaos-") as folder:
        try:
            yield Place(Path(folder))
        finally:
            stop(prefect_service(), Path(folder) / "prefect")


def undisturbed(where: Place) -> Expected:
    """Run without faults, for the expected end."""
    sia = where.sia()
    sia(*WORDS, timeout=1200)
    return Expected.of(sia)


def chaos(where: Place, seed: int, seconds: float, faults: Sequence[str]) -> Iterator[Told]:
    """Make runs with faults in a seeded order, each once before any repeats, until time is up."""
    random, began = Random(seed), time.monotonic()
    expected = undisturbed(where)
    while True:
        for fault in random.sample(faults, len(faults)):
            yield where.struck(expected, fault, Random(random.random()))
            if time.monotonic() - began > seconds:
                return


def sweep(where: Place, every: int) -> Iterator[Told]:
    """Make runs with a SIGKILL after each write, or each `every`-th."""
    expected = count_writes(where.sia())
    for write in range(1, expected.writes + 1, every):
        yield die_at(where.sia(), expected, write)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a table, and write JSON on request."""
    options = _parse(arguments)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # As in a shell's background job; the runs would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    told: list[Told] = []
    with place() as where:
        runs = (
            sweep(where, options.every)
            if options.sweep
            else chaos(where, options.seed, options.minutes * 60, options.only or list(FAULTS))
        )
        for one in runs:
            told.append(one)
            end = "; ".join(one.wrong) or ("ok" if one.struck else "ok, but came too late to strike")
            for words in one.said:
                print(f"  {' '.join(words.split())}")
            print(f"{one.fault:22} at {one.at:4d}  exits {one.codes}  {one.seconds:6.1f} s  {end}", flush=True)
    _print(told)
    if options.json:
        found = {"seed": options.seed, "runs": [asdict(one) for one in told]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(one.wrong for one in told))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0, help="minutes after which no run is started")
    parser.add_argument("--only", action="append", choices=tuple(FAULTS), help="only this fault; repeatable")
    parser.add_argument("--sweep", action="store_true", help="SIGKILL after each write to MLflow")
    parser.add_argument("--every", type=int, default=1, help="in a sweep, only each N-th write")
    parser.add_argument("--quick", action="store_true", help="one SIGKILL of the driver")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.minutes, options.only = 0.0, ["SIGKILL driver"]
    return options


def _print(told: Sequence[Told]) -> None:
    print(f"\n{'fault':22} {'runs':>5} {'struck':>7} {'went on':>8} {'resumed':>8} {'violations':>11}")
    for fault in dict.fromkeys(one.fault for one in told):
        mine = [one for one in told if one.fault == fault]
        struck = [one for one in mine if one.struck]
        went_on = sum(one.codes == [0] for one in struck)
        wrong = sum(bool(one.wrong) for one in mine)
        print(f"{fault:22} {len(mine):5} {len(struck):7} {went_on:8} {len(struck) - went_on:8} {wrong:11}")


if __name__ == "__main__":
    sys.exit(main())

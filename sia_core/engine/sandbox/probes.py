"""The self-test of a sandbox: small attacks that must fail, and controls that must work.

A sandbox that runs nothing blocks most attacks, so the controls come first and count as much. The test suite shows
that every attack succeeds outside a sandbox.
"""

import hashlib
import itertools
import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import interpreter
from sia_core.engine.sandbox.protocol import Sandbox

_FILES = 20
"""Files of a place that the self-test tries to read."""
_READ_ANY = """
for name in {names!r}:
    try:
        open(name, "rb").close()
        print("GOT")
    except OSError:
        pass
"""
_LIMITS = Limits(wall_s=20.0, cpu_s=20.0, memory_mb=512, disk_mb=8)
WORKS, BLOCKED = "works", "blocked"


@dataclass(frozen=True)
class Probe:
    """A small program that prints GOT when it succeeds."""

    name: str
    source: str
    control: bool


def _probes(canary: Path, modules: Sequence[str]) -> tuple[Probe, ...]:
    compute = "import math\nprint('GOT' if math.comb(6, 3) == 20 else '')"
    if "numpy" in modules:
        compute = "import numpy\nprint('GOT' if (numpy.eye(3) @ numpy.ones(3)).sum() == 3 else '')"
    threads = "import threading\nt = threading.Thread(target=lambda: print('GOT'))\nt.start()\nt.join()"
    return (
        Probe("compute", compute, True),
        Probe("write-cwd", "open('x', 'w').write('GOT')\nprint(open('x').read())", True),
        Probe("threads", threads, True),
        Probe("read-host-file", f"print(open({str(canary)!r}).read())", False),
        Probe("read-own-source", f"open({str(Path(__file__).resolve())!r})\nprint('GOT')", False),
        Probe("open-socket", "import socket\nsocket.socket()\nprint('GOT')", False),
        Probe("fork", "import os\nif os.fork() == 0: os._exit(0)\nprint('GOT')", False),
        Probe("exec", "import os\nos.execv('/bin/echo', ['echo', 'GOT'])", False),
        Probe("signal-parent", "import os\nassert os.getppid()\nos.kill(os.getppid(), 0)\nprint('GOT')", False),
        Probe("list-processes", "import os\nprint('GOT' if '1' in os.listdir('/proc') else '')", False),
        Probe("write-host-file", f"open({str(canary)!r}, 'a').close()\nprint('GOT')", False),
        Probe("read-yours", _READ_ANY.format(names=_some_files()), False),
        Probe("inherit-environment", "import os\nprint('GOT' if 'PATH' in os.environ else '')", False),
    )


def _some_files() -> list[str]:
    """Name some files in the places that are yours, of which a program may read none."""
    roots, found = interpreter.bound(), list[str]()
    for place in interpreter.yours():
        shown = roots if interpreter.holds(place, roots) else []
        files = itertools.chain(place.glob("*"), place.glob("*/*"))
        with suppress(OSError):
            private = (str(file) for file in files if file.is_file() and not interpreter.covered(file, shown))
            found += itertools.islice(private, _FILES)
    return found


def run_probes(sandbox: Sandbox, modules: Sequence[str]) -> dict[str, str]:
    """Run all probes; return probe name -> `works`, `blocked`, or the failure."""
    with tempfile.TemporaryDirectory(prefix="sia-probe-") as folder:
        Path(folder).chmod(0o755)
        canary = Path(folder, "canary")
        canary.write_text(f"GOT {secrets.token_hex(8)}")
        canary.chmod(0o666)
        return {probe.name: _outcome(sandbox, probe) for probe in _probes(canary, modules)}


def _outcome(sandbox: Sandbox, probe: Probe) -> str:
    result = sandbox.run({"main.py": probe.source.encode()}, _LIMITS)
    got = "GOT" in result.stdout
    if result.status == "infrastructure":
        return f"failed: {result.reason}"
    if probe.control:
        return WORKS if got else f"failed: {result.status} {result.reason}"
    return "NOT BLOCKED" if got else BLOCKED


def failures(outcomes: Mapping[str, str]) -> dict[str, str]:
    """Return the failed probes."""
    return {name: outcome for name, outcome in outcomes.items() if outcome not in (WORKS, BLOCKED)}


def digest(outcomes: Mapping[str, str]) -> str:
    """Return the sha256 of the names and outcomes."""
    return hashlib.sha256(json.dumps(sorted(outcomes.items())).encode()).hexdigest()

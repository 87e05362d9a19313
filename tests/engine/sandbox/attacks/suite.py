"""Runs attacks in a sandbox, in their order, and returns the result of each."""

import time
from collections.abc import Iterator, Mapping, Sequence

from sia_core.domain.lab import Limits, SandboxResult
from sia_core.engine.sandbox.protocol import Sandbox
from tests.engine.sandbox.attacks.attack import PRELUDE, Attack, Mode
from tests.engine.sandbox.attacks.exhaust import EXHAUST
from tests.engine.sandbox.attacks.files import FILES
from tests.engine.sandbox.attacks.forge import FORGE
from tests.engine.sandbox.attacks.kernel import KERNEL
from tests.engine.sandbox.attacks.network import NETWORK
from tests.engine.sandbox.attacks.persist import PERSIST

ATTACKS: tuple[Attack, ...] = (*FILES, *NETWORK, *KERNEL, *PERSIST, *FORGE, *EXHAUST)
HELD = "held"
NO_CONTROL = "no control"
_DEFAULTS: dict[str, float] = {"wall_s": 10, "cpu_s": 5, "memory_mb": 256, "disk_mb": 4, "output_kb": 64}
_SLACK_S = 3.0


def attacks_for(mode: Mode) -> list[Attack]:
    return [attack for attack in ATTACKS if mode in attack.modes]


def run(sandbox: Sandbox, program: str, attack: Attack, mode: Mode, names: Mapping[str, str]) -> SandboxResult:
    """Run a program of an attack."""
    for name, text in names.items():
        program = program.replace(f"@{name}@", text)
    limits = Limits(**{**_DEFAULTS, **attack.limits, "subprocesses": mode.endswith("subprocesses")})  # type: ignore[arg-type]
    return sandbox.run({"main.py": f"{PRELUDE}\n{program}".encode()}, limits, collect=attack.collect)


def judge(sandbox: Sandbox, attack: Attack, mode: Mode, names: Mapping[str, str]) -> str:
    """`held`, or the success of the attack in words."""
    began = time.monotonic()
    result = run(sandbox, attack.program, attack, mode, names)
    took = time.monotonic() - began
    if seen(result):
        return f"got it: {result.stdout[-200:]!r} {sorted(result.files)}"
    if result.status == "infrastructure" or (attack.ends and result.status not in attack.ends):
        return f"ended as {result.status}: {result.reason}"
    wall = attack.limits.get("wall_s", _DEFAULTS["wall_s"])
    if took > wall + _SLACK_S:
        return f"took {took:.1f} s"
    if attack.look and seen(run(sandbox, attack.look, attack, mode, names)):
        return "left something for the next program"
    return HELD


def control(sandbox: Sandbox, unconfined: Sandbox, attack: Attack, mode: Mode, names: Mapping[str, str]) -> bool:
    """Return True if the attack's control prints GOT where it should."""
    program = attack.control or attack.program
    arena = sandbox if attack.arena == "inside" else unconfined
    first = run(arena, program, attack, mode, names)
    if attack.arena == "none twice":
        return seen(run(arena, attack.look, attack, mode, names))
    return seen(first)


def seen(result: SandboxResult) -> bool:
    return "GOT" in result.stdout or any(b"GOT" in data for data in result.files.values())


def outcomes(
    sandbox: Sandbox, unconfined: Sandbox, mode: Mode, names: Mapping[str, str], chosen: Sequence[Attack]
) -> Iterator[tuple[str, str]]:
    """Name -> `held`, `no control` or the failure."""
    for attack in chosen:
        ended = judge(sandbox, attack, mode, names)
        # What works unconfined, or in the strict tier, was shown there: once a user is enough.
        controlled = (
            mode == "strict" or "strict" not in attack.modes or (mode == "landlock" and attack.arena == "inside")
        )
        if ended == HELD and controlled and not control(sandbox, unconfined, attack, mode, names):
            ended = NO_CONTROL
        yield attack.name, ended

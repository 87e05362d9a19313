"""Definition of an attack: a program, its forbidden result, and a control that shows that a success is detected.

A program prints GOT when it has reached its target. An attack has failed when GOT appears neither in its
output, nor in a collected file, nor in the output of the next program, which looks for leftovers. The
sandbox itself must not break either. A control has to print GOT, or the attack shows nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Arena = Literal["none", "none twice", "inside"]
Mode = Literal["strict", "strict+subprocesses", "landlock", "landlock+subprocesses"]
ALONE: tuple[Mode, ...] = ("strict", "landlock")
EVERY: tuple[Mode, ...] = ("strict", "strict+subprocesses", "landlock", "landlock+subprocesses")
STRICT: tuple[Mode, ...] = ("strict", "strict+subprocesses")

PRELUDE = """
import ctypes, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NEWNS, NEWUTS, NEWUSER = 0x00020000, 0x04000000, 0x10000000
def got(yes=True):
    if yes: print("GOT", flush=True)
def alone():
    # Where the attack is tried unconfined it must do no harm: first leave the machine's own namespaces.
    if libc.unshare(NEWNS | NEWUTS) != 0:
        libc.unshare(NEWUSER | NEWNS | NEWUTS)
    libc.mount(b"none", b"/", None, 0x44000, None)
"""
"""Code before every program."""


@dataclass(frozen=True)
class Attack:
    """An attack. In its programs @NAME@ stands for a target of the scene."""

    name: str
    program: str
    control: str = ""
    """A program that prints GOT in `arena`; if empty, the attack itself with its `look`."""
    arena: Arena = "none"
    """Place of the control: unconfined, unconfined with `look` after it, or in the sandbox under attack."""
    look: str = ""
    """The next program in the same sandbox."""
    ends: tuple[str, ...] = ()
    """Accepted statuses; if empty, all but infrastructure."""
    collect: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    modes: tuple[Mode, ...] = EVERY
    root: bool = False
    """True if the attack's control needs root outside the sandbox."""


def dosed(name: str, program: str, bad: object, good: object, **fields: object) -> Attack:
    """An attack by quantity: the control is the same program with a dose that is allowed."""
    low = program.replace("@N@", str(good))
    return Attack(name, program.replace("@N@", str(bad)), low, "inside", **fields)  # type: ignore[arg-type]

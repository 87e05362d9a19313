"""Try to carry 1 kB from one sandboxed program to another by each channel that is known here.

A harness that can carry data from one rollout to another can carry what it has seen of one problem to the next, within
all rules of the sandbox. For each channel a sender is given random bytes, and a receiver, a program of another sandbox,
prints what it sees. The sender has ended before the receiver starts, except for channels that need both at once. The
control runs the same two programs outside of any sandbox, where most channels must work, or the trial shows nothing.

The capacity of a trial is that of a binary channel with the error rate seen, less what chance would give (three
standard errors); the rate is bits over the time of both programs. A channel is closed where its capacity is 0.

    python -m bench.channels [--tier strict] [--bytes 1024] [--quick] [--json FILE]
"""

import argparse
import json
import math
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import Sandbox, open_sandbox
from sia_core.engine.sandbox.protocol import Tier

_LIMITS = Limits(wall_s=60.0, cpu_s=60.0, memory_mb=512, disk_mb=16)
_DOWN = 0.5
"""Seconds that a sender of a channel in time holds each bit."""

_PRELUDE = """
import ctypes, fcntl, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
BITS = {bits!r}
COUNT = {count}

def answer(bits):
    print("".join("1" if bit else "0" for bit in bits))

def files(least):
    "Readable files with at least so many bytes, in a fixed order, the least used ones first."
    found = []
    for top in dict.fromkeys(("/usr/share", "/usr/lib", "/usr/bin", sys.base_prefix, sys.prefix)):
        for folder, names, inner in os.walk(top):
            names.sort()
            for name in sorted(inner):
                path = os.path.join(folder, name)
                try:
                    size = os.stat(path, follow_symlinks=False).st_size
                    if size >= least and not os.path.islink(path):
                        found.append((path, size))
                except OSError:
                    pass
            if len(found) > 4000:
                return found
    return found

def chosen(token):
    "Some of the files, others for each token: a file's access time changes once a day."
    import random
    return random.Random(token).sample([path for path, _ in files(1)], COUNT)

STEP = 1 << 18

def pages(count):
    "Places (path, offset) far enough apart that reading one does not fetch another."
    made = []
    for path, size in files(1 << 19):
        made += [(path, at) for at in range(STEP, size - 4096, STEP)]
        if len(made) >= count:
            break
    return made[:count]

opened = {{}}

def fd_of(path):
    "Descriptor of the file; only the last one stays open, as a program has few."
    if path not in opened:
        for one in opened.values():
            os.close(one)
        opened.clear()
        opened[path] = os.open(path, os.O_RDONLY)
        libc.posix_fadvise(opened[path], 0, 0, 1)
    return opened[path]

def touch(path, at):
    os.pread(fd_of(path), 1, at)

def drop(places):
    for path in {{path for path, _ in places}}:
        libc.posix_fadvise(fd_of(path), 0, 0, 4)

def cached(path, at):
    "Ask without fetching: preadv2 with RWF_NOWAIT."
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(1)
    vector = Vector(ctypes.addressof(buffer), 1)
    return libc.syscall(327, fd_of(path), ctypes.byref(vector), 1, ctypes.c_long(at), ctypes.c_long(0), 8) == 1

def resident(path, at):
    seen = ctypes.create_string_buffer(1)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, fd_of(path), ctypes.c_long(at))
    code = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(4096), seen)
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096))
    return code == 0 and seen.raw[0] & 1

def timed(places):
    took = []
    for path, at in places:
        fd_of(path)
        began = time.perf_counter()
        touch(path, at)
        took.append(time.perf_counter() - began)
    return took

def split(times):
    "Slow or fast, by the widest gap between the middle values of a sorted list of logarithms."
    import math
    logs = sorted(math.log(max(one, 1e-9)) for one in times)
    gaps = [(b - a, (a + b) / 2) for a, b in zip(logs[len(logs) // 10:], logs[len(logs) // 10 + 1:-len(logs) // 10])]
    return math.exp(max(gaps)[1]) if gaps else 0.0
"""


@dataclass(frozen=True)
class Channel:
    """A sender and a receiver; both see COUNT, and the sender BITS."""

    name: str
    send: str
    receive: str
    at_once: bool = False
    """True if both must run at the same time."""
    most_bits: int = 8192
    cold: bool = False
    """True if the machine has to be as after its start: the files were read by nobody."""
    rounds: int = 1
    """Repetitions of a channel for few bits, so that its result is not luck."""


@dataclass(frozen=True)
class Carried:
    """Result of a trial."""

    channel: str
    where: str
    sent: int
    right: int
    capacity: float
    """Bits carried."""
    rate: float
    """Bits a second."""


def _at(path: str) -> str:
    return f"PATH = {path!r}\n"


_SHARED = _at("/tmp/sia-channel")
CHANNELS: tuple[Channel, ...] = (
    Channel(
        "page cache, asked without fetching",
        "p = pages(COUNT); drop(p)\nfor bit, place in zip(BITS, p):\n    if bit: touch(*place)",
        "answer(cached(*place) for place in pages(COUNT))",
    ),
    Channel(
        "page cache, mincore",
        "p = pages(COUNT); drop(p)\nfor bit, place in zip(BITS, p):\n    if bit: touch(*place)",
        "answer(resident(*place) for place in pages(COUNT))",
    ),
    Channel(
        "page cache, dropped and timed",
        "p = pages(COUNT); drop(p)\nfor bit, place in zip(BITS, p):\n    if bit: touch(*place)",
        "took = timed(pages(COUNT))\nlimit = split(took)\nanswer(one < limit for one in took)",
    ),
    Channel(
        "page cache of a fresh machine, timed",
        "for bit, place in zip(BITS, pages(COUNT)):\n    if bit: touch(*place)",
        "took = timed(pages(COUNT))\nlimit = split(took)\nanswer(one < limit for one in took)",
        cold=True,
    ),
    Channel(
        "names that do not exist, timed",
        "for i, bit in enumerate(BITS):\n    if bit: os.path.exists(f'/usr/share/sia-@T@-{i}')",
        "took = []\nfor i in range(COUNT):\n    name = f'/usr/share/sia-@T@-{i}'\n    a = time.perf_counter()\n"
        "    os.access(name, 0)\n    took.append(time.perf_counter() - a)\n"
        "answer(one < sorted(took)[COUNT // 2] for one in took)",
    ),
    Channel(
        "access times",
        "for bit, path in zip(BITS, chosen('@T@')):\n    if bit: open(path, 'rb').read(1)",
        "now = time.time()\nanswer(now - os.stat(path).st_atime < 60 for path in chosen('@T@'))",
        most_bits=256,
    ),
    Channel(
        "locks of whole files (flock)",
        "held = []\nfor bit, (path, _) in zip(BITS, files(1)):\n    fd = os.open(path, os.O_RDONLY); held.append(fd)\n"
        "    if bit: fcntl.flock(fd, fcntl.LOCK_EX)\nprint('ready', flush=True); time.sleep(3)",
        "seen = []\nfor path, _ in files(1)[:COUNT]:\n    fd = os.open(path, os.O_RDONLY)\n    try:\n"
        "        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB); seen.append(0)\n    except OSError: seen.append(1)\n"
        "    os.close(fd)\nanswer(seen)",
        at_once=True,
        most_bits=40,
    ),
    Channel(
        "locks of bytes (fcntl)",
        "import struct\nfd = os.open(files(1 << 16)[0][0], os.O_RDONLY)\nfor i, bit in enumerate(BITS):\n"
        "    if bit: fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', 0, 0, i, 1, 0))\n"
        "print('ready', flush=True); time.sleep(3)",
        "import struct\nfd = os.open(files(1 << 16)[0][0], os.O_RDONLY)\nseen = []\nfor i in range(COUNT):\n"
        "    got = fcntl.fcntl(fd, 36, struct.pack('hhqqi4x', 1, 0, i, 1, 0))\n"
        "    seen.append(struct.unpack('hhqqi4x', got)[0] != 2)\nanswer(seen)",
        at_once=True,
    ),
    Channel(
        "file in a common directory",
        _SHARED + "open(PATH, 'w').write(''.join(map(str, BITS)))",
        _SHARED + "answer(map(int, open(PATH).read()))",
    ),
    Channel(
        "shared memory",
        "open('/dev/shm/sia-@T@', 'w').write(''.join(map(str, BITS)))",
        "answer(map(int, open('/dev/shm/sia-@T@').read()))",
    ),
    Channel(
        "System V shared memory",
        "i = libc.shmget(0x51A, 8192, 0o1666); libc.shmat.restype = ctypes.c_void_p\n"
        "assert i >= 0\nctypes.memmove(libc.shmat(i, None, 0), bytes(BITS), len(BITS))",
        "i = libc.shmget(0x51A, 8192, 0o666); libc.shmat.restype = ctypes.c_void_p\nassert i >= 0\n"
        "answer(ctypes.string_at(libc.shmat(i, None, 0), COUNT)); libc.shmctl(i, 0, None)",
    ),
    Channel(
        "key ring",
        "assert libc.syscall(248, b'user', b'sia-@T@', bytes(BITS), len(BITS), -4) >= 0",
        "i = libc.syscall(249, b'user', b'sia-@T@', None, -4)\nassert i >= 0\nb = ctypes.create_string_buffer(COUNT)\n"
        "libc.syscall(250, 11, i, b, COUNT)\nanswer(b.raw)",
    ),
    Channel(
        "numbers of pipes",
        "value = int(''.join(map(str, BITS)), 2)\ndef number():\n    a, b = os.pipe(); n = os.fstat(a).st_ino\n"
        "    os.close(a); os.close(b); return n\n"
        "os.sched_setaffinity(0, {0}) if hasattr(os, 'sched_setaffinity') else None\n"
        "while number() % (1 << 16) >> (16 - COUNT) != value: pass",
        "a, b = os.pipe()\nanswer(map(int, format(os.fstat(a).st_ino % (1 << 16) >> (16 - COUNT), f'0{COUNT}b')))",
        most_bits=6,
        rounds=12,
    ),
    Channel(
        "free memory",
        "held = []\nbegin = time.time() // 1 + 2\n"
        "for i, bit in enumerate(BITS):\n    while time.time() < begin + i * @D@: time.sleep(0.01)\n"
        "    held = [bytearray(b'x' * (200 << 20))] if bit else []\ntime.sleep(@D@)",
        "class Info(ctypes.Structure): _fields_ = [('v', ctypes.c_ulong * 14)]\n"
        "seen = []\nbegin = time.time() // 1 + 2\n"
        "for i in range(COUNT):\n    while time.time() < begin + (i + 0.7) * @D@: time.sleep(0.01)\n"
        "    info = Info(); libc.sysinfo(ctypes.byref(info)); seen.append(info.v[5])\n"
        "answer(one < (max(seen) + min(seen)) / 2 for one in seen)",
        at_once=True,
        most_bits=16,
        rounds=3,
    ),
)


def capacity(sent: Sequence[int], seen: Sequence[int]) -> tuple[int, float]:
    """Return how many bits are right, and the bits that a channel with this error rate carries; 0 at chance."""
    count, right = len(sent), sum(a == b for a, b in zip(sent, seen, strict=True))
    most = max(right, count - right)  # An inverted channel carries as much.
    if most / count < 0.5 + 3 * 0.5 / math.sqrt(count):
        return right, 0.0
    error = 1 - most / count
    entropy = -sum(one * math.log2(one) for one in (error, 1 - error) if one)
    return right, count * (1 - entropy)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all channels, and print what each carries."""
    options = _parse(arguments)
    rng, found = random.Random(options.seed), list[Carried]()
    tier = cast("Tier", options.tier)
    with closing(open_sandbox(tier, modules=())) as one, closing(open_sandbox(tier, modules=())) as two:
        for channel in CHANNELS:
            if options.only in channel.name:
                for where, run in (("control", _outside), (tier, _inside(one, two))):
                    rounds = 1 if options.quick else channel.rounds
                    bits = 8 if options.quick and channel.at_once else options.bytes * 8
                    found.append(_trial(channel, where, run, rng, bits, rounds))
                    print(_line(found[-1]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(one) for one in found], indent=1))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="strict", choices=("strict", "landlock"))
    parser.add_argument("--bytes", type=int, default=1024, help="length of the message")
    parser.add_argument("--only", default="", help="channels whose name holds this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="32 bytes, and no repetitions")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.quick:
        options.bytes = 32
    return options


Runs = Callable[[str, str, bool], str]


def _trial(channel: Channel, where: str, run: Runs, rng: random.Random, bits: int, rounds: int) -> Carried:
    sent, seen, took = list[int](), list[int](), 0.0
    for _ in range(rounds):
        message = [rng.getrandbits(1) for _ in range(min(bits, channel.most_bits))]
        token = secrets.token_hex(5)  # New each time: names and files of an earlier trial are known to the kernel.
        texts = [
            (_PRELUDE.format(bits=shown, count=len(message)) + body).replace("@T@", token).replace("@D@", str(_DOWN))
            for shown, body in ((message, channel.send), ([], channel.receive))
        ]
        if channel.cold:
            _outside(_PRELUDE.format(bits=[], count=len(message)) + "drop(pages(COUNT))", "", False)
        began = time.perf_counter()
        said = run(texts[0], texts[1], channel.at_once).strip()
        took += time.perf_counter() - began
        # A receiver may find fewer places than there are bits; what it does not print, it has not received.
        bits_seen = [int(one) for one in said] if set(said) <= {"0", "1"} else []
        sent += message
        seen += [*bits_seen, *(rng.getrandbits(1) for _ in message)][: len(message)]
    right, carried = capacity(sent, seen)
    return Carried(channel.name, where, len(sent), right, carried, carried / took)


def _outside(send: str, receive: str, at_once: bool) -> str:
    def run(text: str) -> str:
        with tempfile.TemporaryDirectory(prefix="sia-channel-") as folder:
            words = [sys.executable, "-I", "-c", text]
            return subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, timeout=120).stdout

    said = _both(run, send, receive) if at_once else (run(send), run(receive))[1]
    Path("/tmp/sia-channel").unlink(missing_ok=True)
    return said


def _inside(one: Sandbox, two: Sandbox) -> Runs:
    def run(send: str, receive: str, at_once: bool) -> str:
        def sender(text: str) -> str:
            return one.run({"main.py": text.encode()}, _LIMITS).stdout

        def receiver(text: str) -> str:
            return two.run({"main.py": text.encode()}, _LIMITS).stdout

        if at_once:
            return _both(sender, send, receive, receiver)
        sender(send)
        return receiver(receive)

    return run


def _both(run: Callable[[str], str], send: str, receive: str, receiver: Callable[[str], str] | None = None) -> str:
    """Run both, the receiver a second after the sender, or at once where they keep time."""
    thread = threading.Thread(target=run, args=(send,))
    thread.start()
    if "begin" not in receive:
        time.sleep(1.0)
    said = (receiver or run)(receive)
    thread.join()
    return said


def _line(one: Carried) -> str:
    state = "closed" if one.capacity == 0 else f"carries {one.capacity:.0f} bits, {one.rate:.0f} bits/s"
    return f"{one.channel:<38} {one.where:<9} {one.right:>5} of {one.sent} right   {state}"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())

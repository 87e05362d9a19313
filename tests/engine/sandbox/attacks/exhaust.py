"""Too much of everything. The machine must not notice, and the run must end in time."""

from tests.engine.sandbox.attacks.attack import ALONE, Attack, dosed

_FORKS = "made = 0\nwhile made < @N@:\n    if os.fork() == 0: time.sleep(9)\n    made += 1\ngot()\nos._exit(0)"
_BOMB = "while True:\n    try: os.fork()\n    except OSError: pass"
_SPIN = "for _ in range(3): os.fork()\nbegan = time.monotonic()\nwhile time.monotonic() < began + @N@: pass\ngot()"
_THREADS = """
import threading
for _ in range(@N@): threading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()
got()
os._exit(0)
"""
_FAMILY_MEMORY = """
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(@N@ << 20)
        time.sleep(5)
        os._exit(0)
time.sleep(0.1 if @N@ < 9 else 4)
got()
os._exit(0)
"""
_TALK = """
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(@N@ << 20)
        time.sleep(5)
        os._exit(0)
for _ in range(2 if @N@ < 9 else 400):
    os.write(1, b".")
    time.sleep(0.005)
got()
os._exit(0)
"""
_UNLINKED = """
held = []
for number in range(@N@):
    file = open("x", "wb")
    file.write(bytes(1 << 20))
    file.flush()
    os.unlink("x")
    held.append(file)
    time.sleep(0.01)
time.sleep(0.1)
got()
"""
_MAPPED = """
import mmap
held = []
for number in range(@N@):
    with open("x", "w+b") as file:
        file.write(bytes(1 << 20))
        file.flush()
        held.append(mmap.mmap(file.fileno(), 4096))
    if @N@ > 1: os.unlink("x")
    time.sleep(0.02)
got()
"""
_QUEUED = """
import array
for number in range(@N@):
    a, b = socket.socketpair()
    got(number == 0 and @N@ == 1)
    fd = os.open("x", os.O_CREAT | os.O_RDWR)
    os.write(fd, bytes(1 << 20))
    os.unlink("x")
    socket.send_fds(a, [b"x"], [fd])
    os.close(fd)
    time.sleep(0.01)
"""
_DEEP = "for _ in range(@N@):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\ntime.sleep(0.1)\ngot(@N@ < 9)"
_NORESERVE = "import mmap\nmmap.mmap(-1, @N@, flags=0x4022)\ngot()"
_WRITE = (
    "for i in range(@N@):\n    open(f'{i}', 'wb').write(bytes(1 << 20))\n    time.sleep(0.01)\ntime.sleep(0.1)\ngot()"
)
_FILES = "for i in range(@N@): open(str(i), 'w').close()\ntime.sleep(0.1)\ngot()"
_TIMERS = """
timer = ctypes.c_void_p()
made = sum(libc.timer_create(1, None, ctypes.byref(timer)) == 0 for _ in range(@N@))
got(@N@ < 9 and made)
"""

EXHAUST = (
    dosed("fork bomb", _FORKS, 200, 2, modes=("strict+subprocesses", "landlock+subprocesses")),
    Attack(
        "fork bomb without end",
        _BOMB,
        "got()",
        "inside",
        limits={"wall_s": 1},
        ends=("timeout",),
        modes=("strict+subprocesses", "landlock+subprocesses"),
    ),
    Attack(
        "fork bomb where there is no fork",
        _BOMB,
        "got()",
        "inside",
        limits={"wall_s": 0.3},
        ends=("timeout",),
        modes=ALONE,
    ),
    dosed("threads", _THREADS, 600, 5, limits={"memory_mb": 8192}),
    dosed("memory", "held = bytearray(@N@ << 20)\ngot()", 512, 64),
    dosed("memory touched slowly", "held = []\nfor _ in range(@N@): held.append(b'x' * (1 << 20))\ngot()", 512, 32),
    dosed(
        "memory of many processes",
        _FAMILY_MEMORY,
        120,
        8,
        modes=("strict+subprocesses", "landlock+subprocesses"),
        ends=("memory",),
    ),
    dosed(
        "memory of many behind much talk",
        _TALK,
        120,
        8,
        modes=("strict+subprocesses", "landlock+subprocesses"),
        ends=("memory",),
    ),
    dosed("memory mapped", "import mmap\nheld = mmap.mmap(-1, @N@ << 20)\ngot()", 2048, 64),
    dosed("memory not reserved", _NORESERVE, 1 << 40, 1 << 20),
    dosed("list that doubles", "x = [0]\nwhile len(x) < @N@: x += x\ngot()", 1 << 40, 1 << 10),
    dosed("number", "got((10 ** @N@) > 1)", 10**10, 10, limits={"cpu_s": 1}),
    dosed("pattern", "import re\nre.match('(a*)*b', 'a' * @N@)\ngot()", 60, 6, limits={"cpu_s": 1}, ends=("timeout",)),
    dosed("bytes on disk", _WRITE, 12, 1),
    dosed("one large file", "open('x', 'wb').write(bytes(@N@ << 20))\ngot()", 9, 1),
    dosed("removed files", _UNLINKED, 40, 1),
    dosed("removed files that are mapped", _MAPPED, 40, 1),
    dosed("removed files in a queue", _QUEUED, 25, 1, limits={"disk_mb": 8}),
    dosed("many files", _FILES, 20000, 10),
    dosed("deep folders", _DEEP, 300, 2),
    dosed(
        "shared memory",
        "open('/dev/shm/x', 'wb').write(bytes(@N@ << 10))\ngot()",
        9 << 10,
        9,
        modes=("strict", "strict+subprocesses"),
    ),
    dosed("descriptors", "held = [os.open('/dev/null', 0) for _ in range(@N@)]\ngot()", 500, 9),
    dosed("pipes", "held = [os.pipe() for _ in range(@N@)]\ngot()", 500, 5),
    dosed("timers", _TIMERS, 20000, 2),
    dosed(
        "locked memory",
        "held = bytearray(@N@ << 20)\ngot(libc.mlock((ctypes.c_char * len(held)).from_buffer(held), len(held)) == 0)",
        200,
        1,
    ),
    dosed("output", "print('x' * @N@)\ngot(@N@ < 99)", 1 << 20, 9, ends=("output", "ok")),
    Attack("output without end", "while True: os.write(1, b'x' * 4096)", "got()", "inside", ends=("output",)),
    Attack("errors without end", "while True: os.write(2, b'x' * 4096)", "got()", "inside", ends=("output",)),
    Attack(
        "time", "time.sleep(60)\ngot()", "time.sleep(0.01)\ngot()", "inside", ends=("timeout",), limits={"wall_s": 0.3}
    ),
    Attack("processor", "while True: pass", "got()", "inside", ends=("timeout",), limits={"cpu_s": 1}),
    dosed(
        "processor of many",
        _SPIN,
        60,
        0.01,
        ends=("timeout",),
        limits={"cpu_s": 1},
        modes=("strict+subprocesses", "landlock+subprocesses"),
    ),
    Attack(
        "deaf to signals",
        "for s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
        "while True: time.sleep(1)",
        "got()",
        "inside",
        ends=("timeout",),
        limits={"wall_s": 0.3},
    ),
    Attack(
        "storm of signals",
        "signal.signal(14, lambda *a: 0)\nsignal.setitimer(0, 1e-5, 1e-5)\nwhile True: pass",
        "got()",
        "inside",
        ends=("timeout",),
        limits={"wall_s": 0.3},
    ),
    Attack(
        "recursion",
        "sys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()",
        "got()",
        "inside",
        ends=("error", "memory", "timeout"),
        limits={"cpu_s": 1},
    ),
    Attack("crash", "ctypes.string_at(0)", "got()", "inside", ends=("error",)),
    Attack("source that nests", "eval('(' * 100000)", "got()", "inside", ends=("error", "memory", "output")),
    Attack("long error", "raise ValueError('x' * (1 << 22))", "got()", "inside", ends=("error", "output")),
)

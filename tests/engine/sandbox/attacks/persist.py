"""Attacks in which a program tries to leave something for the next program."""

from tests.engine.sandbox.attacks.attack import EVERY, STRICT, Attack, Mode


def _left(name: str, program: str, look: str, modes: tuple[Mode, ...] = EVERY) -> Attack:
    """An attack whose control runs both parts as a single program in the sandbox."""
    return Attack(name, program, f"{program}\n{look}", "inside", look, modes=modes)


def _kept(name: str, program: str, look: str) -> Attack:
    """An attack whose control runs both parts unconfined, in their order; `look` removes the trace."""
    return Attack(name, program, "", "none twice", look)


_QUEUE = "libc.syscall(240, b'sia-@T@', 0o102, 0o600, 0)"
_KEY = "libc.syscall(248, b'user', b'sia-@T@', b'x', 1, -4)"
_DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)
        open("@OPEN@/daemon", "w")
    os._exit(0)
os.wait()
"""

PERSIST = (
    _left("file in the directory", "open('mine', 'w').write('x')", "got(os.path.exists('mine'))"),
    _left("file in shared memory", "open('/dev/shm/mine', 'w')", "got(os.path.exists('/dev/shm/mine'))", STRICT),
    _kept("file in the common folder", "open('/tmp/sia-@T@', 'w')", "os.unlink('/tmp/sia-@T@')\ngot()"),
    _kept("file of everyone", "open('@OPEN@/left', 'w')", "os.unlink('@OPEN@/left')\ngot()"),
    _left("module replaced", "sys.modules['json'] = os", "import json\ngot(json is os)"),
    _left("module changed", "import json\njson.dumps = 7", "import json\ngot(json.dumps == 7)"),
    _left("socket changed", "socket.socketpair = 7", "got(socket.socketpair == 7)"),
    _left(
        "builtin changed",
        "import builtins\nbuiltins.mine = 7",
        "got('mine' in dir(__builtins__) or 'mine' in __builtins__"
        " if isinstance(__builtins__, dict) else hasattr(__builtins__, 'mine'))",
    ),
    _left(
        "trusted module in memory",
        "for m in list(sys.modules.values()): setattr(m, 'mine', 7)",
        "got(any(hasattr(m, 'mine') for m in sys.modules.values()))",
    ),
    _left("import path", "sys.path.append('/mine')", "got('/mine' in sys.path)"),
    _left(
        "exit function", "import atexit\natexit.register(print, 'x')", "import atexit\ngot(atexit._ncallbacks() > 0)"
    ),
    _left(
        "thread",
        "import threading\nthreading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()",
        "import threading\ngot(threading.active_count() > 1)",
    ),
    _left("environment", "os.environ['MINE'] = '1'", "got('MINE' in os.environ)"),
    _left("mask", "os.umask(0o123)", "got(os.umask(0) == 0o123)"),
    _left("working directory", "os.chdir('/usr')", "got(os.getcwd() == '/usr')"),
    _left(
        "signal handler",
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "got(signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN)",
    ),
    _left(
        "blocked signal",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        "got(signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, []))",
    ),
    _left("timer", "signal.setitimer(signal.ITIMER_REAL, 99)", "got(signal.getitimer(signal.ITIMER_REAL)[0] > 0)"),
    _left(
        "limit",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))",
        "import resource\ngot(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 40)",
    ),
    _left("priority", "os.nice(3)", "got(os.nice(0) != @NICE@)"),
    _left("cpus", "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])", "got(len(os.sched_getaffinity(0)) == 1)"),
    _left(
        "name",
        "libc.prctl(15, b'mine', 0, 0, 0)",
        "name = ctypes.create_string_buffer(16)\nlibc.prctl(16, name, 0, 0, 0)\ngot(name.value == b'mine')",
    ),
    _left("flags of standard input", "os.set_blocking(0, False)", "got(not os.get_blocking(0))"),
    _kept(
        "memory of System V",
        "libc.shmget(0x@K@, 4096, 0o1600)",
        "got(libc.shmctl(libc.shmget(0x@K@, 0, 0), 0, 0) == 0)",
    ),
    _kept("message queue", _QUEUE, "got(libc.syscall(241, b'sia-@T@') == 0)"),
    _kept(
        "key",
        _KEY,
        "key = libc.syscall(250, 10, -4, b'user', b'sia-@T@', 0)\ngot(key > 0 and libc.syscall(250, 3, key) == 0)",
    ),
    _kept("daemon", _DAEMON, "time.sleep(0.6)\nos.unlink('@OPEN@/daemon')\ngot()"),
)

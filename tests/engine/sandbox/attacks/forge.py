"""Attacks that forge a result, or leave files that are no regular files."""

from tests.engine.sandbox.attacks.attack import ALONE, Attack, dosed

_LOOT = ("loot",)
_REAL = "open('loot', 'w').write('GOT')"
_STATUS = b'{"status": 0, "cpu_s": 0}'
_WRITE_EVERYWHERE = f"""
for fd in range(3, 1024):
    try: os.write(fd, {_STATUS!r})
    except OSError: pass
os._exit(7)
"""
_SEND_EVERYWHERE = f"""
for fd in range(3, 1024):
    try: socket.socket(fileno=os.dup(fd)).send({_STATUS!r})
    except OSError: pass
os._exit(7)
"""


def _file(name: str, program: str) -> Attack:
    """`loot` is collected, and the control is a real file."""
    return Attack(name, program, _REAL, "inside", collect=_LOOT)


FORGE = (
    Attack("status on every descriptor", _WRITE_EVERYWHERE, "got()", "inside", ends=("error",)),
    Attack("status on every socket", _SEND_EVERYWHERE, "got()", "inside", ends=("error",)),
    Attack(
        "status on standard output", f"print({_STATUS.decode()!r})\nos._exit(7)", "got()", "inside", ends=("error",)
    ),
    Attack("exit code of 256 bits", "os._exit(255)", "got()", "inside", ends=("error",)),
    Attack("all closed, then failed", "os.closerange(0, 1024)\nos._exit(7)", "got()", "inside", ends=("error",)),
    Attack("all closed, then well", "os.closerange(0, 1024)\nos._exit(0)", "got()", "inside", ends=("ok",)),
    Attack(
        "own murder",
        "os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(9)",
        "got()",
        "inside",
        ends=("timeout", "error", "memory"),
        limits={"wall_s": 0.3},
    ),
    Attack(
        "own stop",
        "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(9)",
        "got()",
        "inside",
        ends=("timeout",),
        limits={"wall_s": 0.3},
    ),
    Attack("abort", "os.abort()", "got()", "inside", ends=("error",)),
    Attack("os._exit replaced", "os._exit = lambda code: None\nsys.exit(3)", "got()", "inside", ends=("error",)),
    Attack(
        "threads that do not end",
        "import threading\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "got()",
        "inside",
        ends=("timeout",),
        limits={"wall_s": 0.3},
    ),
    Attack(
        "exit function that does not end",
        "import atexit\natexit.register(time.sleep, 60)",
        "got()",
        "inside",
        ends=("timeout",),
        limits={"wall_s": 0.3},
    ),
    _file("collected link", "os.symlink('@SECRET@', 'loot')"),
    _file("collected link to a process", "os.symlink('/proc/self/environ', 'loot')"),
    _file("collected hard link", "os.link('@OWN@', 'loot')"),
    _file("collected pipe", "os.mkfifo('loot')"),
    _file("collected device", "os.mknod('loot', 0o20666, os.makedev(1, 5))"),
    _file("collected socket", "socket.socket(socket.AF_UNIX).bind('loot')"),
    _file("collected folder", "os.mkdir('loot')"),
    Attack(
        "collected through a linked folder",
        "os.symlink('@FOLDER@', 'way')",
        "os.mkdir('way')\nopen('way/secret', 'w').write('GOT')",
        "inside",
        collect=("way/secret",),
    ),
    Attack(
        "collected from above",
        "os.chdir('/')",
        "os.mkdir('d')\nopen('d/secret', 'w').write('GOT')",
        "inside",
        collect=("d/secret",),
    ),
    Attack(
        "program that replaces itself by a link",
        "os.unlink('main.py')\nos.symlink('@SECRET@', 'main.py')",
        "open('main.py', 'w').write('GOT')",
        "inside",
        collect=("main.py",),
    ),
    dosed(
        "sparse giant",
        "os.truncate('loot', @N@) if os.path.exists('loot') else os.ftruncate(os.open('loot', 66), @N@)\n"
        "got(@N@ < 1 << 20)",
        1 << 40,
        4096,
        collect=_LOOT,
    ),
    dosed(
        "more than may be collected",
        "open('loot', 'wb').write(bytes(@N@))\ngot(@N@ < 1 << 20)",
        3 << 20,
        4096,
        collect=_LOOT,
        limits={"files_mb": 1},
        ends=("output", "ok"),
    ),
    dosed("very deep JSON", "open('loot', 'w').write('[' * @N@)\ngot(@N@ < 9)", 1 << 20, 3, collect=_LOOT),
    Attack(
        "bytes that are no text", "os.write(1, bytes(range(256)) * 9)\nos._exit(0)", "got()", "inside", ends=("ok",)
    ),
    Attack("empty reason", "sys.stderr.write('\\n' * 99)\nos._exit(1)", "got()", "inside", ends=("error",)),
    Attack(
        "daemon that holds the output", "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)", "got()", "inside"
    ),
    Attack(
        "forged traceback", "sys.stderr.write('MemoryError')\nos._exit(0)", "got()", "inside", ends=("ok",), modes=ALONE
    ),
)

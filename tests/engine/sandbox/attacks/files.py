"""Attacks on files of others, /proc, inherited descriptors and the environment."""

from tests.engine.sandbox.attacks.attack import STRICT, Attack

_OPENED = """
for path in ({paths}):
    try:
        open(path, "rb").read(1)
        got()
    except OSError:
        pass
"""
_WRITTEN = """
import site
for folder in ({paths}):
    try:
        path = os.path.join(folder, "sia-attack")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)
        got()
    except OSError:
        pass
"""
_SETTINGS = """
for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches"):
    try:
        os.open(path, os.O_WRONLY)
        got()
    except OSError:
        pass
"""
_DESCRIPTORS = """
for fd in range(3, 4096):
    try:
        os.fstat(fd)
        got()
    except OSError:
        pass
"""
_ENVIRONMENT = """
own = {"HOME", "TMPDIR", "LANG", "LC_CTYPE", "SIA_STREAM"}
got(any(name not in own and not name.endswith("_NUM_THREADS") for name in os.environ))
"""
_SOCKETS = """
import gc
frame, held = sys._getframe(), []
while frame:
    held += [*frame.f_locals.values(), *frame.f_globals.values()]
    frame = frame.f_back
for item in [*held, *gc.get_objects()]:
    if isinstance(item, socket.socket) and item.fileno() > 0:
        try:
            os.fstat(item.fileno())
            got()
        except OSError:
            pass
"""
_TRUNCATED = "os.truncate('@WRITABLE@', 0); got()"
_CHANGED = """
before = os.stat("@OWN@")
{change}
after = os.stat("@OWN@")
got((before.st_mode, before.st_mtime) != (after.st_mode, after.st_mtime))
"""

FILES = (
    Attack("system accounts", _OPENED.format(paths="'/etc/passwd', '/etc/shadow', '/etc/group'")),
    Attack("private data of a task", "print(open('@SECRET@').read())"),
    Attack("list of a private folder", "got(bool(os.listdir('@FOLDER@')))"),
    Attack("home of the user", "import pwd\ngot(bool(os.listdir('@HOME@')))"),
    Attack("folders of home", _OPENED.format(paths="'@HOME@/.sia/key', '/root/.bashrc', '/home/user/.bashrc'")),
    Attack(
        "files of the project", _OPENED.format(paths="'@PROJECT@/sia_core/domain/lab.py', '@PROJECT@/pyproject.toml'")
    ),
    Attack("folder of another worker", "print(open('@OTHER@/main.py').read())"),
    Attack("secret through a link", "os.symlink('@SECRET@', 'x')\nprint(open('x').read())"),
    Attack("secret through a linked folder", "os.symlink('@FOLDER@', 'x')\nprint(open('x/secret').read())"),
    Attack("hard link to a file outside", "os.link('@OWN@', 'x')\nprint(open('x').read())"),
    Attack(
        "file moved in", "os.rename('@OPEN@/movable', 'x')\nprint(open('x').read())\nos.rename('x', '@OPEN@/movable')"
    ),
    Attack("climbing by ..", "print(open('../' * 40 + '@SECRET@').read())"),
    Attack("climbing by a descriptor", "fd = os.open('/usr', 0)\nos.fchdir(fd)\nprint(open('..@SECRET@').read())"),
    Attack("write to an open folder", _WRITTEN.format(paths="'@OPEN@', '/tmp', '/var/tmp'")),
    Attack("write to the interpreter", _WRITTEN.format(paths="sys.prefix, *site.getsitepackages(), '/usr', '@OPEN@'")),
    Attack("write to a file of everyone", "open('@WRITABLE@', 'a').write('x')\ngot()"),
    Attack("cut a file", _TRUNCATED),
    Attack("cut a file by opening", "os.open('@WRITABLE@', os.O_RDONLY | os.O_TRUNC)\ngot()"),
    Attack("change a mode", _CHANGED.format(change="os.chmod('@OWN@', before.st_mode ^ 0o4)")),
    Attack("change a time", _CHANGED.format(change="os.utime('@OWN@', (1, before.st_mtime + 9))")),
    Attack("change an attribute", "os.setxattr('@OWN@', 'user.x', b'1')\ngot()"),
    Attack("watch a folder", "got(libc.inotify_add_watch(libc.inotify_init1(0), b'@FOLDER@', 0xFFF) >= 0)"),
    Attack("list of processes", "got(any(name.isdecimal() for name in os.listdir('/proc')))"),
    Attack("environment of a process", "print(open('/proc/@VICTIM@/environ').read())"),
    Attack("memory of a process", "open('/proc/@VICTIM@/mem', 'rb')\ngot()"),
    Attack("map of the parent", "open(f'/proc/{os.getppid()}/maps').read()\ngot()"),
    Attack("descriptors of a process", "got(bool(os.listdir('/proc/@PID@/fd')))"),
    Attack("root of a process", "got(bool(os.listdir('/proc/@PID@/root/')))"),
    Attack("own memory file", "open('/proc/self/mem', 'r+b')\ngot()"),
    Attack("own executable", "open('/proc/self/exe', 'rb')\ngot()", modes=STRICT),
    Attack("mount table", "open('/proc/self/mountinfo').read()\ngot()"),
    Attack("kernel settings", _SETTINGS, root=True),
    Attack("own place in the out-of-memory order", "os.open('/proc/self/oom_score_adj', os.O_WRONLY)\ngot()"),
    Attack("tree of devices", "got(bool(os.listdir('/sys/kernel')))"),
    Attack("control groups", "got(bool(os.listdir('/sys/fs/cgroup')))"),
    Attack("devices", _OPENED.format(paths="'/dev/kmsg', '/dev/mem', '/dev/vda', '/dev/sda', '/dev/fuse'"), root=True),
    Attack(
        "device of one's own", "alone()\nos.mknod('x', 0o20666, os.makedev(1, 3))\nopen('x', 'rb')\ngot()", root=True
    ),
    Attack("inherited descriptors", _DESCRIPTORS, "os.dup2(1, 50)" + _DESCRIPTORS, "inside"),
    Attack("inherited environment", _ENVIRONMENT, "os.environ['X'] = '1'" + _ENVIRONMENT, "inside"),
    Attack("sockets in frames", _SOCKETS, "pair = socket.socketpair()" + _SOCKETS, "inside"),
)

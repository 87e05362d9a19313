"""System calls and process games. Numbers are those of x86-64."""

from tests.engine.sandbox.attacks.attack import ALONE, Attack

_CODE = """
import mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex({code!r}))
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
got(call() == os.getpid())
"""
_RAISE = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({new}, hard + {more}))
got()
"""
_CLONE3 = """
arguments = (ctypes.c_uint64 * 11)()
arguments[4] = 17
pid = libc.syscall(435, arguments, 88)
if pid == 0: os._exit(0)
got(pid > 0)
"""
_MEMFD = """
fd = os.memfd_create("x")
os.write(fd, open("/bin/true", "rb").read())
if os.fork() == 0: os.execve(fd, ["true"], {})
got(os.wait()[1] == 0)
"""
_CAPS = """
words = (ctypes.c_uint32 * 6)()
libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), words)
got(any(words[i] for i in (0, 1, 3, 4)))
"""
_FILTER = """
code = (ctypes.c_uint64 * 1)(0x7FFF000000000006)
program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(code))
libc.prctl(38, 1, 0, 0, 0)
got(libc.prctl(22, 2, program) == 0)
"""
_LEASE = "import fcntl\nfcntl.fcntl(os.open('/usr/bin/env', 0), fcntl.F_SETLEASE, fcntl.F_RDLCK)\ngot()"
_OWNER = """
import fcntl
a, b = socket.socketpair()
fcntl.fcntl(a, fcntl.F_SETOWN, {pid})
got(fcntl.fcntl(a, fcntl.F_GETOWN) == {pid})
"""


def _call(name: str, arguments: str, *, alone: bool = False, root: bool = False) -> Attack:
    """A raw system call that succeeds outside."""
    return Attack(name, f"{'alone()' if alone else ''}\ngot(libc.syscall({arguments}) >= 0)", root=root)


KERNEL = (
    Attack("fork", "pid = os.fork()\nif pid == 0: os._exit(0)\ngot()", modes=ALONE),
    Attack("vfork", "import subprocess\nsubprocess.run(['/bin/true'], check=True)\ngot()", modes=ALONE),
    Attack("raw clone", "pid = libc.syscall(56, 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\ngot(pid > 0)", modes=ALONE),
    Attack("clone3", _CLONE3),
    Attack("exec", "os.execv('/bin/echo', ['echo', 'GOT'])", modes=ALONE),
    Attack("exec by descriptor", "os.execve(os.open('/bin/echo', 0), ['echo', 'GOT'], {})", modes=ALONE),
    Attack("exec of memory", _MEMFD),
    Attack("trace", "got(libc.ptrace(0, 0, 0, 0) == 0)"),
    Attack("trace another", "got(libc.ptrace(0x4206, @VICTIM@, 0, 0) == 0)"),
    Attack(
        "read memory",
        "b = ctypes.create_string_buffer(b'x')\nv = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 1)\n"
        "got(libc.process_vm_readv(os.getpid(), v, 1, v, 1, 0) == 1)",
    ),
    Attack("handle of a process", "os.pidfd_open(os.getpid())\ngot()"),
    Attack("descriptor of a process", "fd = os.pidfd_open(@VICTIM@)\ngot(libc.syscall(438, fd, 0, 0) >= 0)"),
    Attack("signal to the supervisor", "os.kill(@PID@, 0)\ngot()"),
    Attack("signal to the parent", "assert os.getppid()\nos.kill(os.getppid(), 0)\ngot()"),
    Attack(
        "signal to the group of the parent",
        "group = os.getpgid(os.getppid())\nassert group\nos.killpg(group, 0)\ngot()",
    ),
    Attack("signal to a thread elsewhere", "got(libc.syscall(234, @PID@, @PID@, 0) == 0)"),
    Attack("queued signal", "info = (ctypes.c_int * 32)(0, 0, -1)\ngot(libc.syscall(129, @PID@, 0, info) == 0)"),
    Attack("kill of everyone", "os.kill(-1, signal.SIGKILL)", "os.kill(@VICTIM@, 0)\ngot()"),
    Attack("owner of a descriptor", _OWNER.format(pid="@PID@"), _OWNER.format(pid="@PID@")),
    Attack("lease on a file of the system", _LEASE, root=True),
    Attack("limits of another", "import resource\nresource.prlimit(@VICTIM@, resource.RLIMIT_NOFILE, (9, 9))\ngot()"),
    Attack("cpus of another", "os.sched_setaffinity(@VICTIM@, os.sched_getaffinity(0))\ngot()"),
    Attack("priority of another", "os.setpriority(os.PRIO_PROCESS, @VICTIM@, 5)\ngot()"),
    Attack("raise limits", _RAISE.format(new="soft", more=1), _RAISE.format(new="soft - 1", more=0), "inside"),
    Attack("raise priority", "os.nice(-5)\ngot()", "os.nice(1)\ngot()", "inside"),
    Attack("real-time", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\ngot()", root=True),
    Attack("become root", "os.setuid(0)\ngot()", root=True),
    Attack("become the machine's user", "os.setresuid(1, 1, 1)\ngot()", root=True),
    Attack("groups", "os.setgroups([0])\ngot()", root=True),
    Attack("rights held", _CAPS, root=True),
    Attack(
        "rights taken",
        "w = (ctypes.c_uint32 * 6)(1, 1)\ngot(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), w) == 0)",
        root=True,
    ),
    Attack("filter of one's own", _FILTER),
    Attack("be traceable", "got(libc.prctl(4, 1, 0, 0, 0) == 0)"),
    Attack("no random addresses", "got(libc.personality(0x0040000) >= 0)"),
    Attack("user namespace", "got(libc.unshare(NEWUSER) == 0)"),
    Attack("mount namespace", "got(libc.unshare(NEWNS) == 0 or libc.unshare(NEWUSER | NEWNS) == 0)"),
    Attack(
        "clone into a namespace",
        "pid = libc.syscall(56, 17 | NEWUSER, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\ngot(pid > 0)",
    ),
    Attack("enter a namespace", "alone()\ngot(libc.setns(os.open('/proc/self/ns/uts', 0), 0) == 0)"),
    Attack("mount", "alone()\ngot(libc.mount(b't', b'/usr', b'tmpfs', 0, None) == 0)"),
    Attack(
        "remount for writing",
        "alone()\nlibc.mount(b'/usr', b'/usr', None, 4096, None)\n"
        "got(libc.mount(b'none', b'/usr', None, 0x1020, None) == 0)",
    ),
    Attack("unmount", "alone()\nlibc.mount(b't', b'/usr', b'tmpfs', 0, None)\ngot(libc.umount2(b'/usr', 2) == 0)"),
    Attack(
        "pivot root",
        "alone()\nos.makedirs('r/o')\nlibc.mount(b't', b'r', b'tmpfs', 0, None)\nos.mkdir('r/o')\n"
        "got(libc.syscall(155, b'r', b'r/o') == 0)",
        root=True,
    ),
    Attack("chroot", "alone()\nos.chroot('.')\ngot()"),
    Attack("host name", "alone()\nsocket.sethostname('x')\ngot()"),
    _call("io_uring", "425, 4, ctypes.create_string_buffer(200)"),
    _call("bpf", "321, 0, (ctypes.c_uint32 * 32)(1, 4, 4, 1), 128", root=True),
    _call("page faults of one's own", "323, 1"),
    _call("performance counters", "298, (ctypes.c_uint64 * 16)(1 | 112 << 32), 0, -1, -1, 0", root=True),
    _call("keyring", "250, 0, -3, 1"),
    _call("new key", "248, b'user', b'sia', b'x', 1, -3"),
    _call("secret memory", "447, 0"),
    _call("file in memory", "319, b'x', 0"),
    _call("advice for a process", "440, os.pidfd_open(os.getpid()), (ctypes.c_uint64 * 2)(), 0, 0, 0"),
    _call("pages into a pipe", "278, os.pipe()[1], (ctypes.c_uint64 * 2)(), 0, 0"),
    _call("rules of one's own", "444, 0, 0, 1"),
    _call("asynchronous io", "206, 1, (ctypes.c_uint64 * 1)()"),
    _call("local descriptor table", "154, 0, ctypes.create_string_buffer(64), 64"),
    _call("compare processes", "312, os.getpid(), os.getpid(), 1, 0, 0"),
    _call("file handle", "303, -100, b'/usr', (ctypes.c_uint32 * 40)(128), (ctypes.c_int * 1)(), 0"),
    _call("kernel clock", "159, ctypes.create_string_buffer(300)"),
    _call("kernel log", "103, 10, 0, 0", root=True),
    _call("watch all files", "300, 0, 0", root=True),
    _call("shared memory of System V", "29, 0, 4096, 0o600"),
    _call("semaphores of System V", "64, 0, 1, 0o600"),
    _call("messages of System V", "68, 0, 0o600"),
    Attack("32-bit calls", _CODE.format(code="b814000000cd80c3"), _CODE.format(code="b8270000000f05c3"), "inside"),
    Attack(
        "x32 calls",
        "got(libc.syscall(0x40000000 | 39) == os.getpid())",
        "got(libc.syscall(39) == os.getpid())",
        "inside",
    ),
    Attack(
        "terminal", "import fcntl, termios\na, b = os.openpty()\nfcntl.ioctl(b, termios.TIOCSWINSZ, bytes(8))\ngot()"
    ),
    Attack(
        "typing for another",
        "import fcntl, termios\na, b = os.openpty()\nfcntl.ioctl(b, termios.TIOCSTI, b'x')\ngot()",
        root=True,
    ),
)

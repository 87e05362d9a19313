"""The system calls that untrusted code may make, compiled to BPF by libseccomp.

An allow list: a call that is not named fails with ENOSYS, so new calls of newer kernels are denied. Denied
calls that programs often try (`_DENIED`) fail with EPERM instead, for a clear message. Calls of another
architecture end the process.

A program may make threads, but not processes, so the address-space limit of the one process is the total.
Sockets are allowed only as connected pairs, which asyncio needs for its wake-up channel. A variant allows
processes too, for a program whose memory is watched from outside. Locks and advice on files are denied, because files
that all programs read would carry them from one program to another (bench/channels.py).

The kernel compiles a filter again for every process that loads one, in a time that grows with its length: a
tenth of a short rollout. So in the strict tier, the zygote loads the long filter, which its children inherit,
and a program loads a short one that denies the calls of the zygote.

In the tier `landlock`, a program shares process ids and file names with the machine. Calls that act on another
process work on the caller only, and calls that could circumvent Landlock are denied. Changes of modes and times
(which the kernel allows to any owner of a file) have no effect and no error, for `shutil.copy` and similar
functions. `truncate` by name is left to Landlock.
"""

import errno
import functools
import os
import socket
import termios
from dataclasses import dataclass
from typing import Any

from sia_core.domain.errors import SandboxError

_ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range dup dup2 dup3 open
openat openat2 creat access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs readlink readlinkat
getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat
symlink symlinkat truncate ftruncate fallocate fsync fdatasync umask
copy_file_range sendfile splice tee mknod mknodat mmap munmap mremap mprotect madvise msync brk mlock mlock2 munlock
membarrier get_mempolicy mseal poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait
epoll_pwait epoll_pwait2 eventfd eventfd2 pipe pipe2 timerfd_create timerfd_settime timerfd_gettime signalfd signalfd4
shutdown getsockopt setsockopt getsockname getpeername futex
futex_waitv futex_wake futex_wait futex_requeue set_robust_list get_robust_list rseq set_tid_address arch_prctl exit
exit_group restart_syscall pause rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
sigaltstack alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
clock_gettime clock_getres clock_nanosleep gettimeofday time times nanosleep sched_yield sched_getaffinity
sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority getcpu getpid getppid
gettid getpgid getpgrp getsid getuid geteuid getgid getegid getresuid getresgid getgroups capget uname sysinfo
getrandom getrlimit setrlimit getrusage wait4 waitid
"""

_DENIED = """
socket connect bind listen accept accept4 ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd
pidfd_send_signal mount umount2 pivot_root chroot unshare setns io_uring_setup io_uring_enter io_uring_register bpf
userfaultfd perf_event_open keyctl add_key request_key memfd_create memfd_secret inotify_init1 inotify_add_watch
shmget shmat shmctl semget semop semctl msgget msgsnd msgrcv msgctl mq_open clock_settime clock_adjtime settimeofday
adjtimex sethostname setdomainname setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid
capset chown fchown lchown fchownat reboot swapon swapoff init_module finit_module delete_module kexec_load
personality quotactl acct syslog name_to_handle_at open_by_handle_at mincore cachestat
"""

_SURFACE = """
ptrace process_vm_readv process_vm_writev pidfd_getfd mount umount2 pivot_root chroot unshare setns fsopen fsconfig
fsmount fspick open_tree move_mount mount_setattr io_uring_setup io_uring_enter io_uring_register bpf userfaultfd
perf_event_open keyctl add_key request_key open_by_handle_at kexec_load kexec_file_load init_module finit_module
delete_module swapon swapoff quotactl acct syslog reboot settimeofday clock_settime clock_adjtime adjtimex
"""
"""Calls that a coding tool does not need, and that attack kernels or make namespaces."""

_ATTRIBUTES = """
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr lremovexattr
fremovexattr
"""
"""Extended attributes; programs that copy files continue where attributes are not supported."""

_ADVICE = "fadvise64 readahead sync_file_range"
"""Calls that fill and empty the page cache, by which programs of different sandboxes could talk; without effect."""
_LOCKS = (5, 6, 7, 36, 37, 38)
"""Commands of fcntl that lock and ask for locks, which every program that can read a file sees."""
_FLAGGED = "preadv2 pwritev2"
"""Calls allowed without flags only: one of them asks whether a page is cached."""
_MESSAGES = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3, "recvfrom": 3, "recvmsg": 2, "recvmmsg": 3}
"""Calls on sockets, and the index of their flags argument. Urgent data is refused: no program needs it, and in kernels
before mid 2025 it allowed sandbox escapes (CVE-2025-38236)."""
_PROCESSES = "fork vfork execve execveat setsid setpgid"
_ON_PROCESSES = "kill tgkill tkill rt_sigqueueinfo prlimit64 sched_setaffinity setpriority"
_MODES = "chmod fchmod fchmodat fchmodat2 utime utimes utimensat futimesat"
_IOCTLS = (termios.TCGETS, termios.TIOCGWINSZ, termios.FIONREAD, termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX)
_PRCTLS = (3, 15, 16, 39, 0x53564D41)
"""Read dumpable, set and get a thread's name, read no_new_privs, name a mapping."""
_ZYGOTES = "unshare setns mount pidfd_open capset"
"""Calls of `_DENIED` that the zygote needs to set a program up."""
_LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
_ZYGOTES_PRCTLS = (4, 22, 38, 47)
"""Set dumpable, load a filter, set no_new_privs, drop ambient capabilities."""
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080
_CLONE_PARENT = 0x00008000
_SOCKET_KIND = 0xF
_INT = 0xFFFFFFFF
_FCNTLS = (*range(5), 1030, 1032)
"""Copies, flags and size of a pipe, but not F_SETOWN and F_SETSIG, which can signal any process, and not leases, which
can block other processes that open a file of this user."""
OWN_PID = 0x7A5C3E19
"""Placeholder in a filter for the confined process's own id, which is known when the filter is loaded."""


@dataclass(frozen=True)
class Filters:
    """BPF for this machine's architecture. A program is subject to its own filter and the zygote's."""

    zygote: bytes
    """Filter of the zygote; empty for none."""
    alone: bytes
    """Filter of a program that may not make processes."""
    family: bytes
    """Filter of a program that may fork and exec."""


@functools.cache
def private() -> Filters:
    """Build filters for programs with their own namespaces. Raises SandboxError without libseccomp."""
    lib = _library()
    rules = _allowed(lib, lib.SyscallFilter(lib.ERRNO(errno.ENOSYS)), spared=_ZYGOTES)
    for name in f"{_ZYGOTES} {_LANDLOCK} {_ON_PROCESSES} {_MODES} {_PROCESSES}".split():
        _add(lib, rules, lib.ALLOW, name)
    for option in _ZYGOTES_PRCTLS:
        _add(lib, rules, lib.ALLOW, "prctl", lib.Arg(0, lib.MASKED_EQ, _INT, option))
    _add(lib, rules, lib.ALLOW, "clone", lib.Arg(0, lib.MASKED_EQ, _CLONE_NAMESPACES | _CLONE_PARENT, 0))
    return Filters(_exported(rules), *(_taken_away(lib, subprocesses) for subprocesses in (False, True)))


@functools.cache
def shared() -> Filters:
    """Build filters for programs that share process ids and file names with the machine.

    The filters hold OWN_PID in place of the program's process id. Raises SandboxError without libseccomp.
    """
    lib = _library()
    found = []
    for subprocesses in (False, True):
        rules = _allowed(lib, lib.SyscallFilter(lib.ERRNO(errno.ENOSYS)))
        _add_clone(lib, rules, subprocesses)
        _add_shared(lib, rules, subprocesses)
        found.append(_exported(rules))
    return Filters(b"", *found)


@functools.cache
def tools() -> bytes:
    """Build the filter for a whole tool with files, processes and sockets. Raises SandboxError without libseccomp.

    All calls are allowed except those of _SURFACE and of new namespaces, in which _SURFACE would be allowed again.
    """
    lib = _library()
    rules = lib.SyscallFilter(lib.ALLOW)
    for name in _SURFACE.split():
        _add(lib, rules, lib.ERRNO(errno.EPERM), name)
    # A filter cannot read the flags of clone3 in memory; libraries fall back to clone.
    _add(lib, rules, lib.ERRNO(errno.ENOSYS), "clone3")
    for bit in range(32):
        if _CLONE_NAMESPACES >> bit & 1:
            _add(lib, rules, lib.ERRNO(errno.EPERM), "clone", lib.Arg(0, lib.MASKED_EQ, 1 << bit, 1 << bit))
    return _exported(rules)


def _allowed(lib: Any, rules: Any, spared: str = "") -> Any:
    """Add to `rules` the calls that programs may make, and error codes for denied calls outside `spared`."""
    for name in _ALLOWED.split():
        _add(lib, rules, lib.ALLOW, name)
    for name in _DENIED.split():
        if name not in spared.split():
            _add(lib, rules, lib.ERRNO(errno.EPERM), name)
    for name in _ATTRIBUTES.split():
        _add(lib, rules, lib.ERRNO(errno.EOPNOTSUPP), name)
    _add_conditional(lib, rules)
    return rules


def _taken_away(lib: Any, subprocesses: bool) -> bytes:
    rules = lib.SyscallFilter(lib.ALLOW)
    for name in _ZYGOTES.split():
        _add(lib, rules, lib.ERRNO(errno.EPERM), name)
    for name in _LANDLOCK.split():
        _add(lib, rules, lib.ERRNO(errno.ENOSYS), name)
    for option in _ZYGOTES_PRCTLS:
        _add(lib, rules, lib.ERRNO(errno.ENOSYS), "prctl", lib.Arg(0, lib.MASKED_EQ, _INT, option))
    if not subprocesses:
        for name in _PROCESSES.split():
            _add(lib, rules, lib.ERRNO(errno.EPERM), name)
        _add(lib, rules, lib.ERRNO(errno.EPERM), "clone", lib.Arg(0, lib.MASKED_EQ, _CLONE_THREAD, 0))
    return _exported(rules)


def _exported(rules: Any) -> bytes:
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:  # in memory, as the disk may be full
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _library() -> Any:
    try:
        import pyseccomp  # type: ignore[import-untyped]  # needs a library that a machine may lack
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxError(
            f"libseccomp cannot be loaded: {error}",
            where="sandbox",
            hint="install your distribution's package libseccomp2 (or libseccomp), and `pip install pyseccomp`",
        ) from error
    return pyseccomp


def _add(lib: Any, rules: Any, action: int, name: str, *conditions: Any) -> None:
    number = lib.resolve_syscall(lib.Arch.NATIVE, name)
    if number >= 0:  # a name that this architecture or this libseccomp lacks is denied by default
        rules.add_rule(action, number, *conditions)


def _add_conditional(lib: Any, rules: Any) -> None:
    for request in _IOCTLS:
        _add(lib, rules, lib.ALLOW, "ioctl", lib.Arg(1, lib.MASKED_EQ, _INT, request))
    for option in _PRCTLS:
        _add(lib, rules, lib.ALLOW, "prctl", lib.Arg(0, lib.MASKED_EQ, _INT, option))
    for command in _FCNTLS:
        _add(lib, rules, lib.ALLOW, "fcntl", lib.Arg(1, lib.MASKED_EQ, _INT, command))
    for command in _LOCKS:
        _add(lib, rules, lib.ERRNO(errno.ENOLCK), "fcntl", lib.Arg(1, lib.MASKED_EQ, _INT, command))
    _add(lib, rules, lib.ERRNO(errno.ENOLCK), "flock")
    for name in _ADVICE.split():
        _add(lib, rules, lib.ERRNO(0), name)
    for name in _FLAGGED.split():
        _add(lib, rules, lib.ALLOW, name, lib.Arg(5, lib.MASKED_EQ, _INT, 0))
    for name, flags in _MESSAGES.items():
        _add(lib, rules, lib.ALLOW, name, lib.Arg(flags, lib.MASKED_EQ, socket.MSG_OOB, 0))
        _add(lib, rules, lib.ERRNO(errno.EPERM), name, lib.Arg(flags, lib.MASKED_EQ, socket.MSG_OOB, socket.MSG_OOB))
    stream = (lib.Arg(0, lib.EQ, socket.AF_UNIX), lib.Arg(1, lib.MASKED_EQ, _SOCKET_KIND, socket.SOCK_STREAM))
    _add(lib, rules, lib.ALLOW, "socketpair", *stream)


def _add_clone(lib: Any, rules: Any, subprocesses: bool) -> None:
    if subprocesses:
        none = lib.Arg(0, lib.MASKED_EQ, _CLONE_NAMESPACES | _CLONE_PARENT, 0)
        _add(lib, rules, lib.ALLOW, "clone", none)
        return
    denied = lib.ERRNO(errno.EPERM)
    thread = lib.Arg(0, lib.MASKED_EQ, _CLONE_THREAD | _CLONE_NAMESPACES, _CLONE_THREAD)
    _add(lib, rules, lib.ALLOW, "clone", thread)
    _add(lib, rules, denied, "clone", lib.Arg(0, lib.MASKED_EQ, _CLONE_THREAD, 0))


def _add_shared(lib: Any, rules: Any, subprocesses: bool) -> None:
    denied = lib.ERRNO(errno.EPERM)
    for name in _MODES.split():
        _add(lib, rules, lib.ERRNO(0), name)
    for name in _PROCESSES.split():
        _add(lib, rules, lib.ALLOW if subprocesses else denied, name)
    for name in ("kill", "tgkill"):
        # If the program has its own processes, only Landlock can distinguish them from others.
        own = () if subprocesses else (lib.Arg(0, lib.MASKED_EQ, _INT, OWN_PID),)
        _add(lib, rules, lib.ALLOW, name, *own)
    _add(lib, rules, lib.ALLOW, "setpriority", lib.Arg(0, lib.MASKED_EQ, _INT, 0), lib.Arg(1, lib.MASKED_EQ, _INT, 0))
    for name in ("prlimit64", "sched_setaffinity"):
        _add(lib, rules, lib.ALLOW, name, lib.Arg(0, lib.MASKED_EQ, _INT, 0))

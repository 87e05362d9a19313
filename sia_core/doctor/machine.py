"""Check the machine: sandbox, GPU, directory and disk."""

import os
import shutil
import subprocess

from sia_core.doctor.report import Finding
from sia_core.domain.command import command
from sia_core.domain.errors import RecordError, SandboxError, SiaError
from sia_core.engine.sandbox import probe
from sia_core.engine.sandbox.bubblewrap import MISSING
from sia_core.engine.sandbox.protocol import Tier
from sia_core.host.environment import installed
from sia_core.host.home import home, open_to_others
from sia_core.host.machine.checks import CHECKS

GIGABYTE = 1e9
LEAST_GB, GOOD_GB = 1.0, 5.0
"""Free space below which a run is likely to fill the disk, and below which you are warned."""
_TIMEOUT_S = 10
_NAMED = 3


def check_sandbox(tier: Tier) -> Finding:
    """Start a sandbox of the tier, whose self-test tries to escape."""
    subject = "sandbox"
    if tier == "none":
        return Finding(subject, "warning", "tier none protects nothing: code of models runs as you", "use strict")
    try:
        found = probe(tier=tier)
    except SandboxError as error:
        other = _works("landlock") if tier == "strict" else ""
        return Finding(subject, "failed", f"tier {tier}: {error.what}{other}", error.hint, SandboxError.exit_code)
    seen = f"tier {tier} holds: {len(found.probes)} probes ended as expected"
    if found.missing:
        lacking = f"{seen}; without {', '.join(found.missing)}"
        kernel = "" if found.missing == (MISSING,) else "a kernel from 5.13 on with Landlock enabled adds a layer"
        memory = "make /dev/shm larger: it needs 600 MB free" if MISSING in found.missing else ""
        return Finding(subject, "warning", lacking, "; ".join(filter(None, (kernel, memory))))
    return Finding(subject, "ok", seen)


def _works(tier: Tier) -> str:
    try:
        probe(tier=tier)
    except SandboxError:
        return ""
    return f"; the weaker tier {tier} would work: --sandbox {tier}"


def check_gpu() -> Finding:
    """Check the GPUs that the driver names, and that torch was built for them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("gpu", "ok", "none; policies and training run on the CPU")
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("gpu", "warning", f"nvidia-smi does not answer ({type(error).__name__})", "nvidia-smi -L")
    names = [line.split("(UUID")[0].strip() for line in listed.stdout.splitlines() if line.startswith("GPU")]
    if listed.returncode or not names:
        last = (listed.stderr or listed.stdout).strip().splitlines()[-1:] or ["nothing"]
        return Finding("gpu", "warning", f"nvidia-smi says: {last[0][:200]}", "install the driver, or ignore this")
    torch = installed("torch")
    if torch is None:
        return Finding("gpu", "warning", f"{'; '.join(names)}; torch is not installed", "pip install 'sia[train]'")
    if torch.endswith("+cpu"):
        fix = "pip install --force-reinstall --no-deps torch==" + torch.removesuffix("+cpu")
        return Finding("gpu", "warning", f"{'; '.join(names)}; torch {torch} cannot use it", fix)
    return Finding("gpu", "ok", f"{'; '.join(names)}; torch {torch}")


def check_condition(subject: str) -> Finding:
    """Make one of the checks at which a run ends too; see `checks.CHECKS`."""
    try:
        found = CHECKS[subject]()
    except SiaError as error:
        where = f"{error.where}: " if error.where else ""
        return Finding(subject, "failed", f"{where}{error.what}", error.hint, error.exit_code)
    return Finding(subject, "warning" if found.fix else "ok", found.seen, found.fix)


def check_home() -> Finding:
    """Check that SIA's directory can be written, and that others read nothing in it that is yours alone."""
    try:
        where = home()
    except RecordError as error:
        return Finding("home", "failed", f"{error.where}: {error.what}", error.hint, error.exit_code)
    seen = f"{where}{' (SIA_HOME)' if os.environ.get('SIA_HOME', '').strip() else ''}"
    if found := open_to_others(where):
        names = ", ".join(str(path.relative_to(where)) or "." for path in found[:_NAMED])
        what = f"{seen}: other users have rights on {len(found)} of its entries, such as {names}"
        return Finding("home", "warning", what, command("chmod", "-R", "go=", where))
    return Finding("home", "ok", f"{seen}, open to you alone")


def check_disk() -> Finding:
    """Check the free space for runs, models and data."""
    try:
        where = home()
    except RecordError:
        return Finding("disk", "warning", "not checked, because there is no directory")
    free = shutil.disk_usage(where).free / GIGABYTE
    seen, fix = f"{free:.1f} GB free in {where}", "free some space, or set SIA_HOME to a directory on a larger disk"
    if free < LEAST_GB:
        return Finding("disk", "failed", seen, fix, RecordError.exit_code)
    return Finding("disk", "warning", seen, fix) if free < GOOD_GB else Finding("disk", "ok", seen)

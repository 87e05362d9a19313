"""Check Python, the packages that SIA declares, and the versions that were tested together."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from sia_core.doctor.report import Finding
from sia_core.domain.command import command
from sia_core.host.environment import installed

MINIMUM = (3, 11)
CODE = 1
"""Exit code of a run without them, which ends with an unexpected error."""
_PLACES = (Path(__file__).parents[1] / "constraints.txt", Path(__file__).parents[2] / "constraints.txt")
"""Places of the file in the wheel and in a checkout."""
_SHOWN = 4


def check_python() -> Finding:
    """Check version and system."""
    seen = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} ({sys.executable})"
    if sys.version_info[:2] < MINIMUM:
        return Finding("python", "failed", seen, "make a virtual environment with Python 3.11 or later", CODE)
    if platform.system() != "Linux":
        return Finding("python", "failed", seen, "the sandbox needs Linux: use a container, a VM or WSL", CODE)
    return Finding("python", "ok", seen)


def check_packages(extra: str = "") -> Finding:
    """Check that every declared package is installed, in a version within its range.

    Args:
        extra: name of the extra that the policy needs besides.
    """
    try:
        declared = [Requirement(text) for text in requires("sia") or ()]
    except PackageNotFoundError:
        return Finding("packages", "failed", "SIA itself is not installed", "pip install .", CODE)
    wanted = [one for one in declared if one.marker is None or one.marker.evaluate({"extra": extra})]
    missing = [one.name for one in wanted if installed(one.name) is None]
    outside = [
        f"{one.name} {found} (needs {one.specifier})"
        for one in wanted
        if (found := installed(one.name)) is not None and not one.specifier.contains(found, prereleases=True)
    ]
    wheel = f"sia[{extra}]" if extra else "sia"
    install = command("pip", "install", "-c", _constraints() or "constraints.txt", wheel)
    if missing:
        return Finding("packages", "failed", f"missing: {', '.join(missing)}", install, CODE)
    if outside:
        return Finding("packages", "failed", f"outside their ranges: {_some(outside)}", install, CODE)
    return Finding("packages", "ok", f"SIA {version('sia')}; {len(wanted)} declared packages are installed")


def check_pins() -> Finding:
    """Check that versions are those of constraints.txt, which were tested together."""
    file = _constraints()
    if file is None:
        return Finding("pins", "warning", "constraints.txt is not here, so versions cannot be compared")
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    pinned = dict(line.split("==", 1) for line in lines if "==" in line)
    here = {name: installed(name) for name in pinned}
    unlike = [
        f"{name} {found} (tested: {pinned[name]})"
        for name, found in here.items()
        if found is not None and found.split("+")[0] != pinned[name].split("+")[0]
    ]
    present = sum(found is not None for found in here.values())
    if unlike:
        seen = f"{len(unlike)} of {present} packages are not in the tested version: {_some(unlike)}"
        return Finding("pins", "warning", seen, command("pip", "install", "-c", file, "--upgrade", "sia"))
    return Finding("pins", "ok", f"{present} packages are in the versions that were tested together")


def _constraints() -> Path | None:
    return next((place for place in _PLACES if place.is_file()), None)


def _some(texts: list[str]) -> str:
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")

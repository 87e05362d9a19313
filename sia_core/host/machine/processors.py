"""Count the processors that this process may use, rather than those of the machine.

A scheduler or a container bounds a process by its affinity (`taskset`, Slurm) or by a quota of its control group
(`docker --cpus`, Kubernetes). With more workers than that, all of them are slowed down and time limits are missed.
"""

import os
from pathlib import Path
from typing import Final

from sia_core.host.machine.condition import Condition

GROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def cpus(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the number of usable CPUs: affinity, bounded by the quota, rounded down, at least 1.

    Args:
        groups: where control groups are mounted.
        membership: file that lists the groups of this process.
    """
    usable = len(os.sched_getaffinity(0))
    allowed = quota(groups, membership)
    return usable if allowed is None else max(1, min(usable, int(allowed)))


def quota(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Return the smallest CPU quota of this process's groups and their parents, in CPUs; None if there is none."""
    found = []
    for line in _read(membership).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            found += [_version_2(folder) for folder in _ancestors(groups, path)]
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                found += [_version_1(folder) for folder in _ancestors(groups / mount, path)]
    limits = [limit for limit in found if limit is not None]
    return min(limits) if limits else None


def check_processors() -> Condition:
    """Describe the usable CPUs and what bounds them."""
    usable, present = cpus(), os.cpu_count() or 1
    why = "" if usable >= present else f" of {present}, by the limits of this process or container"
    return Condition(f"{usable} CPU{'s' if usable > 1 else ''}{why}")


def _ancestors(root: Path, path: str) -> list[Path]:
    """List the folders of a group and of its parents; in a container the group itself is mounted at the root."""
    group = root / path.strip("/")
    return [folder for folder in (group, *group.parents) if folder == root or root in folder.parents]


def _version_2(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()
    return _share(*words) if len(words) == 2 else None


def _version_1(folder: Path) -> float | None:
    return _share(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _share(limit: str, period: str) -> float | None:
    return int(limit) / int(period) if limit.isdigit() and period.isdigit() and int(period) else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""

"""Run a command under a container's seccomp profile: `python -m tests.infra.under_seccomp PROFILE COMMAND...`.

Loads the file as a container engine does, with the same library: each named call is looked up, calls that this
libseccomp does not know are left out, and the filter is loaded before the command starts.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyseccomp as lib  # type: ignore[import-untyped]

_ACTIONS = {"SCMP_ACT_ALLOW": lib.ALLOW}
_COMPARE = {"SCMP_CMP_NE": lib.NE, "SCMP_CMP_EQ": lib.EQ}


def load(profile: dict[str, Any]) -> None:
    """Put this process, and all that it will start, under the profile."""
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    rules = lib.SyscallFilter(lib.ERRNO(profile["defaultErrnoRet"]))
    for entry in profile["syscalls"]:
        conditions = [lib.Arg(one["index"], _COMPARE[one["op"]], one["value"]) for one in entry.get("args", [])]
        for name in entry["names"]:
            if lib.resolve_syscall(lib.Arch.NATIVE, name) >= 0:
                rules.add_rule(_ACTIONS[entry["action"]], name, *conditions)
    rules.load()


if __name__ == "__main__":
    load(json.loads(Path(sys.argv[1]).read_text()))
    os.execvp(sys.argv[2], sys.argv[2:])

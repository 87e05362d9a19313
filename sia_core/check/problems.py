"""Checks of problems alone: loads repeat, splits are disjoint, public data holds nothing private."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

from sia_core.check.fingerprint import content, fingerprint, stable
from sia_core.check.report import Finding, outcome
from sia_core.domain.errors import HarnessError, LeakError
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import texts
from sia_core.domain.rollout import SPLITS
from sia_core.domain.task import Task

PRIVATE_CHARS = 24
"""Length from which a private text must not be in public data; shorter ones may be there by chance."""
_PROCESS_S = 600


def check_splits(task: Task) -> Finding:
    """Check that no problem, by id or by contents, is in two splits."""
    faults: list[str] = []
    ids: dict[str, str] = {}
    contents: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        shown = {problem.id: content(problem) for problem in task.problems(split)}
        times = Counter(shown.values())
        for problem in task.problems(split):
            if ids.setdefault(problem.id, split) != split:
                faults.append(f"id {problem.id!r} is in {ids[problem.id]} and in {split}")
            # Problems of a split with equal public data are distinguished by their private data.
            identity = shown[problem.id]
            identity += stable(problem.private) if times[identity] > 1 else ""
            seen = contents.setdefault(identity, (split, problem.id))
            if seen[0] != split:
                faults.append(f"{problem.id} of {split} shows the same as {seen[1]} of {seen[0]}")
    counts = ", ".join(f"{split} {len(task.problems(split))}" for split in SPLITS)
    hint = "give each split its own problems: a child must not be judged on problems it was trained on"
    return outcome("splits", faults, f"{len(ids)} problems ({counts}), no id and no content in two splits", hint)


def check_repeats(task: Task) -> Finding:
    """Check that two loads in this process and one in another give the same problems in the same order."""
    first = fingerprint(task)
    faults = [f"a second load differs: {found}" for found in _differences(first, fingerprint(Task.load(task.where)))]
    faults += [f"another process differs: {found}" for found in _differences(first, _elsewhere(task))]
    compared = sum(bool(digest) for split in first.values() for digest in split.values())
    seen = f"three loads in two processes agree (all ids, contents of {compared} problems)"
    return outcome(
        "repeats", faults, seen, "load(split) has to derive every choice from a fixed seed, in a fixed order"
    )


def _elsewhere(task: Task) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-P", "-m", "sia_core.check.fingerprint", task.where]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        timeout=_PROCESS_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        return {"": {"": (done.stderr.strip().splitlines() or ["it failed"])[-1]}}
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _differences(first: dict[str, dict[str, str]], second: dict[str, dict[str, str]]) -> Iterator[str]:
    if "" in second:
        yield second[""][""]
        return
    for split, problems in first.items():
        if list(problems) != list(second[split]):
            yield f"ids of {split}, or their order"
        changed = [name for name, digest in problems.items() if second[split].get(name, digest) != digest]
        if changed:
            yield f"contents of {split} problem {changed[0]}"


def check_private(task: Task) -> Finding:
    """Check that no canary and no long private text is in public data, files, task.md or the seed harness."""
    faults = []
    count = 0
    for split in SPLITS:
        for problem in task.problems(split):
            private = [text.strip() for text in texts(problem.private) if len(text.strip()) >= PRIVATE_CHARS]
            files = [name + data.decode(errors="replace") for name, data in problem.files.items()]
            public = "\n".join([problem.id, *map(str, texts(dict(problem.public))), *files])
            count += 1
            try:
                task.canaries.check(public, f"public data of {problem.id}")
            except LeakError as error:
                faults.append(f"a canary stands in {error.where}")
            if any(text in public for text in private):
                faults.append(f"a private text of {problem.id} stands in its public data")
    faults += _canaries_in_files(task)
    offered = "with canaries" if task.module.__dict__.get("canaries") else "the task offers no canaries"
    seen = f"public data of {count} problems, task.md and harness hold no private text ({offered})"
    return outcome("private", faults, seen, "keep answers in Problem.private: a harness sees `public` and `files`")


def _canaries_in_files(task: Task) -> Iterator[str]:
    try:
        task.canaries.check(task.description, "task.md")
        folder = task.path / task.config.harness
        if (folder / "harness.toml").exists():
            task.canaries.check_files(Harness.load(folder).files, "seed harness")
    except LeakError as error:
        yield f"a canary is in {error.where}"
    except HarnessError:
        pass  # A finding of its own.

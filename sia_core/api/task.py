"""A task as scripts and notebooks use it: besides its problems, it verifies an answer that you try."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sia_core.domain import task as domain
from sia_core.domain.command import command
from sia_core.domain.config import Tier
from sia_core.domain.errors import SiaError, TaskError, UsageError
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.domain.near import did_you_mean
from sia_core.domain.rollout import SPLITS, Verdict
from sia_core.domain.task import Problem

if TYPE_CHECKING:
    from sia_core.engine.sandbox.protocol import Sandbox
    from sia_core.engine.worker import SandboxLab

_HINT = (
    "give what a harness may answer: null, true, numbers, texts, lists, objects; numpy values as x.item(), x.tolist()"
)


@dataclass(frozen=True)
class Task(domain.Task):
    """A task that you loaded, with `try_answer`."""

    def try_answer(self, problem: Problem | str, answer: Any, *, sandbox: Tier = "strict") -> Verdict:
        """Verify an answer as a run would, without a policy, a record or a server.

        The verifier runs in this process, and private data do not leave it. Programs in the answer run in a sandbox.

        Args:
            problem: a problem of this task, or the id of one, of any split.
            answer: JSON data, as a harness answers.
            sandbox: tier for programs in the answer; a verifier that runs none needs no sandbox.

        Raises:
            UsageError: there is no such problem, or the answer is not JSON data.
            TaskError: the verifier raised an exception, or returned something that is not a verdict.
            SandboxError: the verifier runs a program, and no sandbox of the tier is available.
            FetchError: the task's data cannot be fetched.
        """
        from sia_core.check.verdicts import verified  # Loads the engine.
        from sia_core.engine.sandbox import hide

        data = _as_json(answer)
        self.prepare(lambda _what, _done, _total: None)
        found = self._find(problem)
        hide(self.path)
        with closing(_Lab(sandbox, self)) as lab:
            try:
                return verified(self, found, data, lab)
            except SiaError:
                raise
            except Exception as error:
                what = f"verify() raised {type(error).__name__}: {error}"[:300]
                raise TaskError(
                    what, where=str(self.path / "task.py"), hint=command("sia", "check", self.where)
                ) from error

    def _find(self, problem: object) -> Problem:
        if isinstance(problem, Problem):
            return problem
        if not isinstance(problem, str):
            what = f"{problem!r} is neither a problem nor an id"
            raise UsageError(what, where=self.name, hint='such as task.problems("train")[0]')
        known = {problem.id: problem for split in SPLITS for problem in self.problems(split)}
        if problem in known:
            return known[problem]
        what = f"no problem {problem!r}{did_you_mean(problem, known)}"
        raise UsageError(what, where=self.name, hint=f"such as {next(iter(known))!r}, or a problem itself")


class _Lab:
    """Lab that opens its sandbox for the first program."""

    def __init__(self, tier: Tier, task: "Task") -> None:
        self._tier: Tier = tier
        self._task = task

    @cached_property
    def _opened(self) -> "tuple[Sandbox, SandboxLab]":
        from sia_core.engine.sandbox import open_sandbox
        from sia_core.engine.worker import SandboxLab, packages_of

        packages = packages_of(self._task)
        sandbox = open_sandbox(self._tier, packages=packages)
        return sandbox, SandboxLab(sandbox, packages)

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Implement `Lab.run`."""
        return self._opened[1].run(files, limits, entry=entry, collect=collect)

    def open(self, files: Mapping[str, bytes], limits: Limits, **how: Any) -> Any:
        """Implement `LiveProgramLab.open`."""
        return self._opened[1].open(files, limits, **how)

    def close(self) -> None:
        """End the sandboxes."""
        if "_opened" in self.__dict__:
            sandbox, lab = self._opened
            lab.close()
            sandbox.close()


def _as_json(answer: Any) -> Any:
    """Return the answer as a verifier receives it from a harness.

    Raises:
        UsageError: the answer is not JSON data.
    """
    try:
        return json.loads(json.dumps(answer, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the answer is not JSON data: {error}", where="answer", hint=_HINT) from None

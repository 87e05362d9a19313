"""Start a run from a node of another run of the same task."""

from dataclasses import dataclass

from sia_core.domain.command import quoted
from sia_core.domain.errors import RecordError, UsageError
from sia_core.domain.lineage import Node, champion
from sia_core.record.store import Record, RunRecord
from sia_core.record.tags import Tag

_OPTION = "--branch-from"


@dataclass(frozen=True)
class Branch:
    """A node and the run that made it."""

    run: RunRecord
    node: Node

    def __str__(self) -> str:
        return f"{self.run.name}:{self.node.generation}"

    @classmethod
    def find(cls, record: Record, text: str) -> "Branch":
        """Parse `RUN:GENERATION`, where 0 is the seed, or `RUN` for the run's champion.

        Raises:
            UsageError: no number follows the colon.
            RecordError: the run or generation does not exist, or the generation made no candidate.
        """
        name, colon, number = text.partition(":")
        if colon and not number.isdecimal():
            raise UsageError(f"{number!r} is not a generation", where=_OPTION, hint=f"such as {name}:3 (0 is the seed)")
        run = record.open(name)
        nodes = run.nodes()
        if not nodes:
            raise RecordError("has no candidate yet", where=run.name, hint=f"sia resume {run.name}")
        if not colon:
            return cls(run, champion(nodes))
        made = [node for node in nodes if node.generation == int(number)]
        if not made:
            what = f"has no generation {number}; its last is {nodes[-1].generation}"
            raise RecordError(what, where=run.name, hint=f"sia status {run.name}")
        if made[-1].parent is not None and made[-1].candidate == nodes[made[-1].parent].candidate:
            why = made[-1].failure or f"its lever was {made[-1].lever}"
            what = f"generation {number} made no new candidate ({why})"
            raise RecordError(what, where=run.name, hint=f"sia status {run.name} shows the others")
        return cls(run, made[-1])

    def check(self, task: str, policy: str, seed: int) -> None:
        """Check that a run can start from this node.

        Args:
            task: name of the new run's task.
            policy: digest of its policy.
            seed: its seed.

        Raises:
            UsageError: the task or the adapter's policy differs, or the seed is the same as in the other run.
        """
        tags = self.run.tags
        if tags[Tag.TASK] != task:
            raise UsageError(f"{self} is of task {tags[Tag.TASK]}, not {task}", where=_OPTION, hint="sia status")
        if self.node.candidate.adapter is not None and tags[Tag.POLICY_DIGEST] != policy:
            what = f"{self} has an adapter of policy {tags[Tag.POLICY]}"
            raise UsageError(what, where=_OPTION, hint=f"run it with --policy {quoted(tags[Tag.POLICY])}")
        if self.run.config.seed == seed:
            what = f"{self.run.name} also has seed {seed}: the gate would draw the problems on which {self} was chosen"
            raise UsageError(what, where="--seed", hint=f"leave --seed out, or use another: --seed {seed + 1}")

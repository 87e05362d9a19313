"""`recorded:FILE`: makes the decisions of a file again, by generation and sibling, on any seed or machine.

Everything else is live: rollouts, rungs, training, gate and sealed test. A decision that cannot be made here ends
its generation without a change (lever `none`, and the reasons), and the next recorded decision follows; no other agent
decides in its place. After the last recorded decision the agent stops.

A rewrite always leads to the recorded harness: where the parent's files differ from the recorded ones, the edits are
computed again against the parent's.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sia_core.agents.meta import Brief, FirstBench
from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.agents.recording import DECISIONS, REWRITES, SAID, SEED, Key, RecordedDecision, Recording, read_recording
from sia_core.agents.source import Source
from sia_core.domain.command import command
from sia_core.domain.errors import HarnessError, UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_path
from sia_core.domain.lineage import SEED_NODE, Decision, Node
from sia_core.domain.patch import Edit, edits_between
from sia_core.domain.task import RECORDED, Task
from sia_core.policy.spec import named_path

SPEC = "recorded"
_PREFIX = "recorded:"
RECORDED_BY = "sia.recorded_by"
"""Tag of a run with recorded decisions: the agent that made them."""


def is_recorded(spec: str) -> bool:
    """Return True if a spec names recorded decisions."""
    return spec == SPEC or spec.startswith(_PREFIX)


def absolute(spec: str) -> str:
    """Give a spec the full path of its file, so that a run resumes from any directory; other specs stay."""
    return f"{_PREFIX}{named_path(spec)}" if spec.startswith(_PREFIX) else spec


def find_recording(spec: str, task: Task) -> Path:
    """Find the file of a spec: the named file, an export's, or the one that ships with the task.

    Raises:
        UsageError: the task ships none.
    """
    if spec != SPEC:
        named = named_path(spec)
        return named / DECISIONS if named.is_dir() else named
    shipped = task.path / RECORDED
    if not shipped.is_file():
        raise UsageError(
            f"task {task.name} ships no recorded decisions",
            where=f"--agent {SPEC}",
            hint=f"name a file that `sia export RUN DIR` wrote: --agent recorded:DIR/{DECISIONS}",
        )
    return shipped


def load_recording(spec: str, task: Task) -> Recording:
    """Load the decisions of a spec.

    Raises:
        UsageError: as `find_recording`, or the decisions were made for another task.
        PolicyError: as `read_recording`.
    """
    path = find_recording(spec, task)
    recording = read_recording(path)
    if recording.task.name != task.name:
        again = command("sia", "run", recording.task.name, "--agent", spec)
        raise UsageError(
            f"{path} holds decisions for task {recording.task.name}, not for {task.name}",
            where="--agent",
            hint=f"{again}; or name decisions that were made for {task.name}",
        )
    return recording


def recorded_lines(spec: str, task: Task) -> list[str]:
    """Say which part of a run is recorded, and which is computed."""
    found = load_recording(spec, task)
    used = found.used
    return [
        f"recorded: the decisions, made by {found.agent} on {found.made} in {used.turns} turns with "
        f"{used.prompt_tokens} tokens read and {used.output_tokens} written",
        "computed now: everything else, that is rollouts, validation, training, gate and sealed test",
    ]


def recorded_tags(spec: str, task: Task) -> dict[str, str]:
    """Tag the agent that made the decisions; empty for an agent that is not recorded. Raises as `load_recording`."""
    return {RECORDED_BY: load_recording(spec, task).agent} if is_recorded(spec) else {}


def recorded_digests(spec: str, task: Task) -> dict[str, str]:
    """Digest of a run's recorded decisions, by spec; empty for an agent that is not recorded.

    Raises:
        PolicyError: the file is missing, or is not a record of decisions.
    """
    if not is_recorded(spec):
        return {}
    load_recording(spec, task)
    return {spec: digest_path(find_recording(spec, task))}


class RecordedAgent:
    """The agent behind specs like `recorded:FILE`."""

    def __init__(self, spec: str, recording: Recording) -> None:
        self.spec = spec if spec == SPEC else f"{_PREFIX}{named_path(spec).stem}"
        self._recording = recording

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Make the recorded decision of this generation and sibling; `stop` where the file has none."""
        entry = self._recording.find(Key(situation.generation, len(situation.siblings)))
        executed = situation.proposed
        if entry is None:
            reason = f"the recording ends here: it holds {len(self._recording.decisions)} decisions"
            return Decision("stop", executed.index, reason, self.spec)
        if entry.lever == "stop":
            return self._decision(entry, executed)
        node = _node(situation, entry.parent_key)
        if situation.refused:
            return self._nothing(entry, node or executed, situation.refused)
        if node is None:
            return self._nothing(entry, executed, (f"there is no node of {entry.parent_key} in this run",))
        if entry.lever == "none":
            return self._nothing(entry, node, (f"not made in the recorded run: {entry.failure or entry.reason}",))
        try:
            return self._rewritten(entry, node, situation, source)
        except HarnessError as error:
            return self._nothing(entry, node, (f"{entry.lever}: {error}",))

    def _rewritten(self, entry: RecordedDecision, node: Node, situation: Situation, source: Source) -> Decision:
        decision = self._decision(entry, node)
        if entry.lever not in REWRITES:
            return decision
        first = source.harness(situation.nodes[SEED_NODE].candidate.harness)
        base, parent = self._recording.harness(entry.parent_key, first), source.harness(node.candidate.harness)
        if base.digest == parent.digest:
            return decision
        return replace(decision, edits=edits_between(parent.files, entry.rewrite(base).files), knobs={})

    def _decision(self, entry: RecordedDecision, parent: Node) -> Decision:
        said: dict[str, Any] = {name: getattr(entry, name) for name in SAID}
        return Decision(
            parent=parent.index,
            parent_reason=entry.parent_reason or "as recorded",
            agent=self.spec,
            knobs=entry.knobs,
            edits=tuple(Edit(edit.file, edit.text, delete=edit.delete) for edit in entry.edits),
            update=entry.update,
            **said,
        )

    def _nothing(self, entry: RecordedDecision, parent: Node, why: tuple[str, ...]) -> Decision:
        """Return lever `none` for a decision that cannot be made in this run."""
        return replace(self._decision(entry, parent), lever="none", refused=why)


class RecordedFirst:
    """Returns the first harness of a file, in place of the Meta-Agent."""

    def __init__(self, spec: str, recording: Recording) -> None:
        self.spec, self._recording = spec, recording

    def write(self, brief: Brief, bench: FirstBench) -> Harness:  # noqa: ARG002
        """Validate the recorded harness.

        Raises:
            NoDecisionError: the file holds no harness, or the validation rejects it here.
        """
        files = self._recording.first.files
        if files is None:
            raise NoDecisionError("the recorded run began with the task's own harness, and its file holds no other")
        harness = Harness.from_files({name: text.encode() for name, text in files.items()}, where="recorded harness")
        faults: Sequence[str] = bench.faults(harness)
        if faults:
            raise NoDecisionError(f"the recorded first harness is rejected here: {'; '.join(faults)}")
        return harness


def _node(situation: Situation, key: Key) -> Node | None:
    if key == SEED:
        return situation.nodes[SEED_NODE]
    made = (node for node in situation.nodes if node.parent is not None)
    return next((node for node in made if (node.generation, node.sibling) == key), None)

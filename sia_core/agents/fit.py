"""Check a run against the recorded decisions that it will make: errors, and differences from the recorded run."""

from collections.abc import Iterator

from sia_core.agents.recorded import is_recorded, load_recording
from sia_core.agents.recording import TRAINS, Recording
from sia_core.domain.command import quoted
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.task import Task
from sia_core.policy.registry import can_train


def check_fit(config: RunConfig, task: Task) -> list[str]:
    """Describe each difference between the run and the recorded one; empty for an agent that is not recorded.

    Raises:
        UsageError: no such decisions, decisions for another task, a policy that cannot be trained although weights
            are pulled, or a first harness that the file does not hold.
        PolicyError: the file is not a record of decisions.
    """
    if not is_recorded(config.agent):
        return []
    recording = load_recording(config.agent, task)
    pulled = {decision.lever for decision in recording.decisions}
    if pulled.intersection(TRAINS) and "weights" in config.levers and not can_train(config.policy):
        raise UsageError(
            f"the recorded decisions train weights, and policy {config.policy} cannot be trained",
            where="--policy",
            hint=f"--policy {quoted(recording.policy)} as in the recorded run, or --levers harness to leave the "
            "weights alone",
        )
    if config.meta and recording.first.files is None:
        raise UsageError(
            "the recorded decisions hold no first harness: their run began with the task's own",
            where="--meta",
            hint="leave out --meta" if _own(task) else "give the task the harness that the recorded run began with",
        )
    return list(_differences(recording, config, task))


def _differences(recording: Recording, config: RunConfig, task: Task) -> Iterator[str]:
    if recording.task.digest != task.digest:
        yield f"the files of task {task.name} are not those of the recorded run"
    yield from _first(recording, config, task)
    if recording.policy != config.policy:
        yield f"the policy was {recording.policy}"
    missing = sorted({"weights" for one in recording.decisions if one.lever in TRAINS} - set(config.levers))
    if missing and config.levers:
        yield "the recording trains weights, which this run may not"
    if config.siblings != recording.siblings:
        yield f"a generation had {recording.siblings} siblings"
    if config.generations > recording.generations:
        yield f"decisions of {recording.generations} generations are recorded: the run stops after them"
    if config.seed == recording.seed:
        yield f"the decisions were made on seed {config.seed} too, so that its problems are not new to them"


def _first(recording: Recording, config: RunConfig, task: Task) -> Iterator[str]:
    if recording.first.adapter is not None:
        yield "the recorded run began with an adapter, which the file does not hold"
    if config.meta:
        return
    own = _own(task)
    if config.branch_from or own is None or own.digest != recording.first.harness:
        more = ", with which --meta begins" if recording.first.files is not None else ""
        yield f"the recorded run began with another harness{more}"


def _own(task: Task) -> Harness | None:
    place = task.path / task.config.harness
    return Harness.load(place) if place.exists() else None

"""Undo decisions of a run, or fork a run; nothing in the record is ever deleted.

- A forgotten generation keeps its MLflow run with all artifacts, as kind `forgotten`, and its number is free again.
  The last generation goes first, so that an interrupted rewind leaves a complete, shorter run.
- The conclusions of the whole run (`stop`, the sealed test) are copied to `forgotten/K/` before their tags go.
- A child run has copies of everything before the generation of the fork, so that it does not need its parent.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.entities import Param

from sia_core.domain.config import RunConfig
from sia_core.domain.lineage import champion, stand_ins
from sia_core.domain.rollout import Rollout
from sia_core.host.directories import write_files
from sia_core.record import parquet
from sia_core.record.arms import SCORES
from sia_core.record.generation import GenerationRecord
from sia_core.record.journal import Journal
from sia_core.record.phases import ImproveDone, Phase, SealedDone, StartDone, StopDone
from sia_core.record.store import RunRecord
from sia_core.record.stored import Stored
from sia_core.record.tags import Tag

FORGOTTEN = "forgotten"
_CONCLUSIONS: tuple[type[Phase], ...] = (StopDone, SealedDone)
_KEPT_FILES = ("harnesses", "agent", "history.json", "sandbox.json")


def forget(run: RunRecord, first: int, by: str = "") -> list[int]:
    """Forget generations from `first` on and the run's conclusions; return their numbers.

    Args:
        run: a run that this process holds.
        first: number of a generation; beyond the last one only conclusions are forgotten.
        by: id of the request. Repeating the last request changes nothing, so a retry does not forget newer generations.
    """
    if was_asked(run, by):
        return []
    count = int(run.tags.get(Tag.FORGOTTEN, "0")) + 1
    _forget_conclusions(run, count)
    gone = [generation for generation in reversed(run.generations()) if generation.index >= first]
    for generation in gone:
        generation.set_tags({Tag.FORGOTTEN: str(count), Tag.KIND: FORGOTTEN})
    if any(generation.tags.get(Tag.PROMOTED) == "true" for generation in gone):
        _crown(run)
    done = min((generation.index for generation in gone), default=first) - 1
    kept = str(min(done, _done(run)))
    run.set_tags({Tag.FORGOTTEN: str(count), Tag.FORGOTTEN_BY: by, Tag.GENERATIONS_DONE: kept, **_stood_in(run)})
    return sorted(generation.index for generation in gone)


def was_asked(run: RunRecord, by: str) -> bool:
    """Return True if `by` asked for the run's last forgetting; False for an empty `by`."""
    return bool(by) and run.tags.get(Tag.FORGOTTEN_BY) == by


def forgotten(run: RunRecord) -> list[GenerationRecord]:
    """List the forgotten generations, in the order it began."""
    query = f"tags.`mlflow.parentRunId` = '{run.run_id}' and tags.`{Tag.KIND}` = '{FORGOTTEN}'"
    return [GenerationRecord(run.record, found) for found in reversed(run.record.search(query))]


def fork(parent: RunRecord, first: int, config: RunConfig, tags: Mapping[str, str]) -> RunRecord:
    """Create a child run with the parent's lineage before generation `first`.

    Args:
        parent: run that is read but not changed.
        first: generation at which the child continues.
        config: configuration of the child.
        tags: tags of the child, beside those that name its parent.
    """
    about = {Tag.FORKED_FROM: parent.name, Tag.FORKED_AT: str(first), "mlflow.parentRunId": parent.run_id}
    child = parent.record.create(config, {**tags, **about})
    for name in _KEPT_FILES:
        _copy_artifacts(parent, child, name)
    for node in parent.nodes():
        adapter = parent.adapter(node.candidate.adapter) if node.generation < first else None
        if adapter is not None:
            child.put_adapter(adapter)
    begun = parent.phase(StartDone)
    if begun is not None:
        child.complete(begun)
    for generation in parent.generations():
        if generation.index < first and generation.phase(ImproveDone) is not None:
            _copy_generation(generation, child.generation(generation.index))
    _copy_metrics(parent, child, first)
    child.set_tags({Tag.FORKED: "whole", Tag.GENERATIONS_DONE: str(_done(child)), **_stood_in(child)})
    return child


def is_whole(child: RunRecord) -> bool:
    """Return True if the creation of a child run was not interrupted."""
    return child.tags.get(Tag.FORKED) == "whole"


def _stood_in(run: RunRecord) -> dict[str, str]:
    return {Tag.STAND_INS: str(len(stand_ins(run.nodes())))}


def _crown(run: RunRecord) -> None:
    """Replace a forgotten champion in the registry by the run's champion before it, unless that is the seed."""
    best = champion(run.nodes())
    if best.parent is None:
        run.demote()
    else:
        run.promote(best.candidate, best.index)


def _done(run: RunRecord) -> int:
    return sum(generation.phase(ImproveDone) is not None for generation in run.generations())


def _forget_conclusions(run: RunRecord, count: int) -> None:
    run.record.fence(surely=True)
    for kind in _CONCLUSIONS:
        concluded = run.phase(kind)
        if concluded is not None:
            run.put_json(f"{FORGOTTEN}/{count}/phases/{kind.NAME}.json", concluded.model_dump(mode="json"))
            if kind is SealedDone:
                run.put_json(f"{FORGOTTEN}/{count}/{SCORES}", run.get_json(SCORES))
            run.record.client.delete_tag(run.run_id, f"{Tag.PHASE}.{kind.NAME}")


def _copy_generation(source: GenerationRecord, target: GenerationRecord) -> None:
    """Copy artifacts and metrics first, then the tags that complete the phases."""
    if target.phase(ImproveDone) is not None:
        return
    _copy_artifacts(source, target, "")
    data = source.record.client.get_run(source.run_id).data
    target.log_metrics(data.metrics)
    params = [Param(key, value) for key, value in data.params.items()]
    if params:
        target.record.client.log_batch(target.run_id, params=params)
    own = ("mlflow.", Tag.RUN, Tag.GENERATION, Tag.KIND)
    kept = {key: value for key, value in data.tags.items() if not key.startswith(own)}
    last = {key: value for key, value in kept.items() if key == Tag.PHASE_IMPROVE}
    target.set_tags({key: value for key, value in kept.items() if key not in last} | {Tag.COPIED_FROM: source.run_id})
    target.set_tags(last)
    target.end("FINISHED")


def _copy_metrics(parent: RunRecord, child: RunRecord, first: int) -> None:
    """Copy the metrics of the lineage, without spending and sealed test."""
    client = parent.record.client
    for name in client.get_run(parent.run_id).data.metrics:
        if not name.startswith(("spent.", "test.")):
            for point in client.get_metric_history(parent.run_id, name):
                if point.step < first:
                    child.log_metrics({name: point.value}, point.step)


def _copy_artifacts(source: Stored, target: Stored, name: str) -> None:
    files: Mapping[str, bytes] | None = source.get_tree(name)
    if not files:
        return
    with tempfile.TemporaryDirectory(prefix="sia-") as folder:
        write_files(Path(folder), files)
        into = name if len(files) > 1 or next(iter(files)) != Path(name).name else ""
        target.put_folder(Path(folder), into or None)


def refill(run: RunRecord, journal: Journal) -> int:
    """Put every rollout that the run's generations have recorded, forgotten ones too, into a journal; how many are new.

    What they have cost is known from the record (`spending.json`), and is not counted here.
    """
    generations = [*run.generations(), *forgotten(run)]
    return sum(journal.put(rollout) for generation in generations for rollout in _rollouts(generation))


def _rollouts(generation: GenerationRecord) -> Iterator[Rollout]:
    """Yield the rollouts of the generation and all its siblings."""
    listing = generation.record.client.list_artifacts
    siblings = [file.path for file in listing(generation.run_id) if file.path.startswith("sibling_")]
    for folder in ("rollouts", *(f"{path}/rollouts" for path in siblings)):
        for file in listing(generation.run_id, folder):
            data = generation.get_bytes(file.path) if Path(file.path).suffix == ".parquet" else None
            yield from parquet.read(data) if data is not None else ()

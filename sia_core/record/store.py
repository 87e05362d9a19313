"""Store each evolution as an MLflow run, with a nested run for each generation.

Only this package imports mlflow. Invariants:

- Only the driver writes.
- A phase is complete or absent: its artifacts go first, then `phases/NAME.json`, last the tag
  `sia.phase.NAME` with that file's digest. Reading checks the digest.
- Harnesses and adapters are stored once, by digest, and checked when read.
- Metric timestamps derive from the run's start, so logging twice is logging once.
- The holder of a run (`lease`) sets `Record.fence`, which is asked before each write to a run.
- Calls wait for a server that does not answer (`patience`). Runs that it created long after the request are ignored.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run
from mlflow.exceptions import MlflowException

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import canonical_json, digest_bytes, digest_json
from sia_core.domain.lineage import Node
from sia_core.domain.near import did_you_mean
from sia_core.domain.setting import option, read_text
from sia_core.host.external import masked
from sia_core.host.home import private_directory, private_file
from sia_core.record.candidates import Candidates
from sia_core.record.connection import connect
from sia_core.record.generation import GenerationRecord
from sia_core.record.patience import Waiting, say_on_stderr, without_late
from sia_core.record.phases import ImproveDone, Phase, StartDone
from sia_core.record.stored import FORMAT, Done, Fence, check_format, checked_phase, complete_phase, no_fence
from sia_core.record.summary import RunSummary
from sia_core.record.tags import Tag
from sia_core.record.trust import artifact_root, check_seal, sealed

LEASES = "sia-leases"
"""Experiment of the small runs that say who holds which run (`lease`)."""
DATASET_DIGEST = 36
"""MLflow takes no longer digests of datasets."""
LATEST = "latest"
"""Name of the newest run."""
_NAMED = 5
"""Runs that an error names."""
_PAGE = 1000
"""Runs in one answer of MLflow's."""
_CHANGED = f"{Tag.SET}."
"""Prefix of the tags that hold settings changed by `sia resume`, as the text of their options."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the experiment's page with the table of runs, instead of an application's traces."""


class Record:
    """All runs of one MLflow store."""

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: str | None,
        cache: Path,
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.cache = cache
        self.waiting = Waiting(tracking_uri, say=say)
        """Waits for MLflow calls outside the client."""
        self.fence: Fence = no_fence
        """Raises once another process holds the run; with `surely` it always asks the store."""
        self._artifact_root = artifact_root
        self.client = connect(tracking_uri, self.waiting)
        # What was read and checked, by digest: over HTTP each artifact costs half a dozen requests.
        self.phases: dict[str, bytes] = {}  # All: the lineage reads the phases of every generation again and again.
        self.harnesses: dict[str, Harness] = {}  # The newest ones.
        self.known: dict[str, list[Run]] = {}  # Generations while this process holds the run: only it adds any.

    def create(self, config: RunConfig, tags: Mapping[str, str]) -> "RunRecord":
        """Open a new run under a fresh name."""
        task = tags[Tag.TASK]
        name = f"{task}-{secrets.token_hex(3)}"
        start = config.model_dump(mode="json")
        own = {Tag.KIND: "evolution", Tag.FORMAT: FORMAT, Tag.RUN: name, Tag.CONFIG: digest_json(start)}
        own[Tag.LEASE] = self.open_lease(name)
        run = self.client.create_run(self.experiment(task), run_name=name, tags={**tags, **own})
        record = RunRecord(self, run)
        record.set_tags(sealed(self, run))  # First: a run whose configuration is stored can be resumed.
        params = [Param(key, str(value)) for key, value in config.model_dump().items()]
        self.client.log_batch(run.info.run_id, params=params)
        record.put_json("config.json", start)
        return record

    def open_lease(self, name: str) -> str:
        """Create an MLflow run that names the holder of a run or comparison; return its id."""
        tags = {Tag.KIND: "lease", Tag.RUN: name}
        run = self.client.create_run(self.experiment(LEASES), run_name=name, tags=tags)
        self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def open(self, name: str) -> "RunRecord":
        """Find a run of this SIA_HOME; see `find` for arguments and more errors.

        Raises:
            RecordError: another SIA_HOME started or changed the run.
        """
        run = self.find(name)
        check_seal(self, self.client.get_run(run.run_id), run.name)
        return run

    def find(self, name: str) -> "RunRecord":
        """Find a run by its name or MLflow id, or by the beginning of either.

        `latest` means the newest run, and the name of a task its newest run; which one it is, is said.

        Raises:
            RecordError: no run or several match, or the run's format is another.
        """
        known = self._evolutions()
        run = next((one for one in known if name in (one.data.tags[Tag.RUN], one.info.run_id)), None)
        run = run or self._newest(known, name) or self._beginning(known, name)
        check_format(run, run.data.tags[Tag.RUN])
        return RunRecord(self, run)

    def _newest(self, known: Sequence[Run], name: str) -> Run | None:
        """Return the newest run, of all or of the task with this name; None for another name."""
        if name == LATEST and not known:
            raise RecordError("there are no runs yet", where=masked(self.tracking_uri), hint="start one: sia run TASK")
        runs = [one for one in known if name in (LATEST, one.data.tags[Tag.TASK])]
        if name == LATEST or len(runs) > 1:
            of = "" if name == LATEST else f" of {len(runs)} runs of {runs[0].data.params.get('task', name)}"
            self.waiting.say(f"{name}: the newest{of}, {runs[0].data.tags[Tag.RUN]}")
        return runs[0] if runs else None

    def _beginning(self, known: Sequence[Run], name: str) -> Run:
        """Return the only run whose name or id begins so."""
        runs = [
            one for one in known if name and name in (one.data.tags[Tag.RUN][: len(name)], one.info.run_id[: len(name)])
        ]
        if len(runs) == 1:
            return runs[0]
        where = masked(self.tracking_uri)
        if not runs and any(run.data.tags[Tag.ARMS] == name for run in self.search(f"tags.`{Tag.KIND}` = 'arms'")):
            hint = f"sia status {name} shows its runs; sia arms --resume {name} resumes it"
            raise RecordError(f"{name!r} is a comparison, not a run", where=where, hint=hint)
        names = [one.data.tags[Tag.RUN] for one in known]
        if runs:
            those = ", ".join(one.data.tags[Tag.RUN] for one in runs[:_NAMED])
            raise RecordError(f"several runs begin with {name!r}", where=where, hint=f"name one of them: {those}")
        newest = ", ".join(names[:_NAMED]) or "there are none yet"
        what = f"unknown run {name!r}{did_you_mean(name, names)}"
        raise RecordError(what, where=where, hint=f"sia status; newest: {newest}")

    def summaries(self) -> list[RunSummary]:
        """Summarise all runs, newest first."""
        return [RunSummary.of(run) for run in self._evolutions()]

    def children(self, run_id: str) -> list[Run]:
        """List the generation runs of a run, in order."""
        query = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`{Tag.KIND}` = 'generation'"
        runs = without_late(self.search(query), Tag.GENERATION)
        return sorted(runs, key=lambda run: int(run.data.tags[Tag.GENERATION]))

    def search(self, query: str) -> list[Run]:
        """Find the runs of all experiments that match an MLflow query, newest first."""
        if not (experiments := self._experiments()):
            return []
        newest = ["attributes.start_time DESC"]
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(experiments, query, max_results=_PAGE, order_by=newest, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def _evolutions(self) -> list[Run]:
        return without_late(self.search(f"tags.`{Tag.KIND}` = 'evolution'"), Tag.RUN)

    def _experiments(self) -> list[str]:
        return [experiment.experiment_id for experiment in self.client.search_experiments()]

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is created on first use."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = f"{self._artifact_root}/{name}" if self._artifact_root else None
        try:
            return str(self.client.create_experiment(name, artifact_location=location, tags=_KIND))
        except MlflowException:  # Another process was quicker.
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


class RunRecord(Candidates):
    """One evolution's run."""

    record: Record

    def __init__(self, record: Record, run: Run) -> None:
        super().__init__(record, run)
        self.name: str = run.data.tags[Tag.RUN]

    @property
    def config(self) -> RunConfig:
        """Return the configuration of the run's start with all later changes."""
        return self.started_with.model_copy(update=self.changed_settings)

    @property
    def changed_settings(self) -> dict[str, Any]:
        """Return the settings that were changed after the start, by the names of `RunConfig`'s fields."""
        texts = {tag.removeprefix(_CHANGED): text for tag, text in self.tags.items() if tag.startswith(_CHANGED)}
        return {name: read_text(RunConfig, name, text) for name, text in texts.items()}

    @property
    def lease_id(self) -> str:
        """MLflow run that names the holder of the run."""
        return self.tags.get(Tag.LEASE, self.run_id)

    @property
    def begun(self) -> bool:
        """True if the run's configuration is stored; without it, a run cannot be resumed."""
        return self.get_bytes("config.json") is not None

    def extend(self, generations: int) -> None:
        """Change the total number of generations."""
        self.change({"generations": generations})

    def change(self, settings: Mapping[str, Any]) -> None:
        """Change settings, by the names of `RunConfig`'s fields."""
        written = {name: option(RunConfig, name).setting.write(value) for name, value in settings.items()}
        changes = {f"{_CHANGED}{name}": text for name, text in written.items()}
        run = self.record.client.get_run(self.run_id)
        check_seal(self.record, run, self.name)
        self.set_tags({**changes, **sealed(self.record, run, {**run.data.tags, **changes})})

    @property
    def started_with(self) -> RunConfig:
        """Read the configuration of the run's start.

        Raises:
            RecordError: another SIA_HOME wrote it, or it is missing.
        """
        check_seal(self.record, self.record.client.get_run(self.run_id), self.name)
        return self.unsealed_config

    @property
    def unsealed_config(self) -> RunConfig:
        """Read the configuration of the run's start without checking its seal, only to show it."""
        data = self.get_bytes("config.json")
        if data is None:
            raise RecordError("config.json is missing", where=self.name, hint="the run never began; start a new one")
        if digest_bytes(data) != self.tags.get(Tag.CONFIG, digest_bytes(data)):
            raise RecordError("config.json was changed", where=self.name, hint="restore the artifact store")
        return RunConfig.model_validate_json(data)

    def adopt(self) -> None:
        """Seal the run as it is, so that this SIA_HOME resumes and reads it."""
        run = self.record.client.get_run(self.run_id)
        digest = {Tag.CONFIG: digest_json(self.unsealed_config.model_dump(mode="json"))}
        self.set_tags({**digest, **sealed(self.record, run, {**run.data.tags, **digest})})

    @property
    def status(self) -> str:
        """MLflow's status of the run: RUNNING, FINISHED, FAILED or KILLED."""
        return str(self.record.client.get_run(self.run_id).info.status)

    def generation(self, index: int) -> GenerationRecord:
        """Return the generation's run, which is created on first use."""
        for run in self._known():
            if run.data.tags[Tag.GENERATION] == str(index):
                return GenerationRecord(self.record, run)
        tags = {
            "mlflow.parentRunId": self.run_id,
            Tag.KIND: "generation",
            Tag.RUN: self.name,
            Tag.GENERATION: str(index),
        }
        try:
            run = self.record.client.create_run(self.experiment_id, run_name=f"{self.name}/{index}", tags=tags)
        finally:
            self.record.known.clear()  # Also when only the answer was lost.
        return GenerationRecord(self.record, run)

    def generation_begun(self, index: int) -> bool:
        """Return True if the generation's run exists."""
        return any(run.data.tags[Tag.GENERATION] == str(index) for run in self._known())

    def generations(self) -> list[GenerationRecord]:
        """List the generation runs in order."""
        return [GenerationRecord(self.record, run) for run in self.record.children(self.run_id)]

    def phase(self, kind: type[Done]) -> Done | None:
        """Implement `GenerationRecord.phase` for phases of the whole run (`start`, `stop`, `test`)."""
        return checked_phase(self, kind)

    def complete(self, done: Phase, tags: Mapping[str, str] | None = None) -> None:
        """Implement `GenerationRecord.complete` for phases of the whole run."""
        complete_phase(self, done, tags)

    def nodes(self) -> list[Node]:
        """Read the lineage: the seed, then the nodes of each completed generation."""
        start = self.phase(StartDone)
        if start is None:
            return []
        known = [(GenerationRecord(self.record, run), run.data.tags) for run in self._known()]
        phases = [checked_phase(generation, ImproveDone, tags) for generation, tags in known]
        return [start.node, *(node for phase in phases if phase is not None for node in phase.nodes)]

    def _known(self) -> list[Run]:
        """Return the generation runs; the lineage tags among their tags are up to date."""
        if self.record.fence is no_fence:
            return self.record.children(self.run_id)
        if self.run_id not in self.record.known:
            self.record.known[self.run_id] = self.record.children(self.run_id)
        return self.record.known[self.run_id]

    def put_datasets(self, task: str, splits: Mapping[str, Sequence[str]]) -> None:
        """Log the splits as MLflow datasets of the run; idempotent.

        Args:
            task: name of the task.
            splits: ids of the problems of each split; MLflow receives their number and a digest.
        """
        self.record.fence()
        self.record.client.log_inputs(
            self.run_id,
            datasets=[
                DatasetInput(
                    Dataset(
                        name=f"{task}/{split}",
                        digest=digest_bytes(canonical_json(list(ids)))[:DATASET_DIGEST],
                        source_type="sia",
                        source=json.dumps({"task": task, "split": split}),
                        profile=json.dumps({"problems": len(ids)}),
                    ),
                    [InputTag("mlflow.data.context", split)],
                )
                for split, ids in splits.items()
            ],
        )

    def end(self, status: str) -> None:
        """Close the MLflow run as FINISHED, FAILED or KILLED."""
        self.record.fence()
        self.record.client.set_terminated(self.run_id, status)

    def reopen(self) -> None:
        """Mark an interrupted run as running again."""
        self.record.fence()
        self.record.client.update_run(self.run_id, status="RUNNING")


def open_record(home: Path, tracking_uri: str | None, say: Callable[[str], None] = say_on_stderr) -> Record:
    """Open the MLflow store of `tracking_uri`, or SQLite under `home` with artifacts beside it.

    Args:
        home: SIA_HOME.
        tracking_uri: MLFLOW_TRACKING_URI.
        say: is called when MLflow is waited for, and when it answers again.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # `sia` prints its own links.
    private_directory(home / "artifacts")
    uri = tracking_uri or f"sqlite:///{private_file(home / 'mlflow.db')}"
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:  # MLflow sets it too, and our own store would pass for a server that you name.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return Record(uri, artifact_root(uri, home), home, say)

"""Define an export: the directory of a run's winner.

    sia.json          this manifest: the winner, settings of its test, digests of all files
    README.md         the model card, for people
    harness/          the harness, file by file
    adapter/          adapter_config.json and adapter_model.safetensors in PEFT layout; absent for the bare policy
    decisions.json    every decision of the run (`agents.recording`), for --agent recorded:FILE

The manifest holds everything that `sia eval` needs to repeat the sealed test, unit by unit, and that `sia serve` needs
to answer. Each file is checked against its digest in the manifest before use. The base model is not part of an export:
the manifest holds its digest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import HarnessError, PolicyError, RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_path
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import Strict, parse
from sia_core.domain.task_config import RolloutLimits, SamplingDefaults
from sia_core.policy.base import adapter_digest

FORMAT: Literal["sia-export/1"] = "sia-export/1"
MANIFEST, CARD, HARNESS, ADAPTER = "sia.json", "README.md", "harness", "adapter"

Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""A text of one line, which moves no cursor of a terminal."""
Name = Annotated[Text, Field(min_length=1, max_length=300)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
MANY: Final = 1024
"""Most threads, and most replies of one batch."""
CEILINGS: Final = {"seconds": 7 * 24 * 3600, "verify_seconds": 7 * 24 * 3600, "memory_mb": 2**20, "disk_mb": 2**20}
"""Largest limits of one rollout: a week, and a terabyte."""


class TaskPart(Strict):
    """The task that the winner was made for."""

    name: Name
    digest: Name
    title: Text
    metric: Text
    score_range: tuple[float, float]
    sampling: SamplingDefaults
    limits: RolloutLimits
    problem_keys: tuple[Text, ...]
    """Names in a problem's public data, which a harness may expect."""
    shares_files: bool
    """True if the task's harnesses also read files of the task (`ctx.shared`), which are not exported."""


class PolicyPart(Strict):
    """The policy under the adapter."""

    spec: Name
    digest: Name
    base: Name | None
    """Digest of the base model's files; None for a policy without files."""
    threads: int = Field(ge=1, le=MANY)
    batch: int = Field(ge=1, le=MANY)


class Interval(Strict):
    """A mean over problems with its two-sided interval."""

    mean: float
    low: float
    high: float


class SealedTest(Strict):
    """Results of the run's sealed test, and the settings that repeat the test."""

    seed: int
    """Seed of the run, from which the choice of problems and the seed of each rollout derive."""
    problems: Count
    rollouts: Count
    """Rollouts of each problem."""
    confidence: float = Field(gt=0.5, lt=1)
    final: Interval
    first: Interval
    """Mean score of the run's first harness, under the bare policy."""
    gain: Interval
    scores: dict[Text, list[float]]
    """Scores of the final candidate by problem, in the order of unit keys, without unscored rollouts."""


class Manifest(Strict):
    """The contents of sia.json."""

    format: Literal["sia-export/1"] = FORMAT
    sia: Name
    """Version of SIA that wrote the manifest."""
    run: Name
    node: int = Field(ge=0)
    """Number of the winner's node in the run's lineage."""
    harness: Name
    """Digest of the harness."""
    adapter: Name | None
    """Digest of the adapter."""
    probe: tuple[float, ...] = ()
    """Logprobs of the probe text under the adapter, by its trainer; empty if they are not known."""
    task: TaskPart
    policy: PolicyPart
    test: SealedTest
    files: dict[Name, Name]
    """Sha256 of every other file by name."""


@dataclass(frozen=True)
class Export:
    """An export on disk with checked files."""

    path: Path
    manifest: Manifest
    harness: Harness
    adapter: Adapter | None

    @classmethod
    def load(cls, path: Path) -> "Export":
        """Read and check an export.

        Raises:
            RecordError: there is no export, its format is another, or files are missing or changed.
            HarnessError: the harness differs from the exported one.
            PolicyError: the adapter is missing, or differs from the exported one.
        """
        path = path.expanduser().absolute()
        manifest = _read_manifest(path / MANIFEST)
        adapter = None if manifest.adapter is None else _read_adapter(path / ADAPTER, manifest.adapter)
        harness = _read_harness(path / HARNESS, manifest.harness)
        for name, expected in manifest.files.items():
            _check_file(path, name, expected)
        return cls(path, manifest, harness, adapter)


def list_files(path: Path) -> dict[str, str]:
    """Compute the sha256 of every file of an export but its manifest."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST)
    return {file.relative_to(path).as_posix(): digest_path(file) for file in files}


def _read_manifest(file: Path) -> Manifest:
    try:
        data: Any = parse(file.read_bytes())
    except FileNotFoundError:
        hint = "name a directory that `sia export RUN DIR` wrote"
        raise RecordError(f"no {MANIFEST}", where=str(file.parent), hint=hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"cannot be read: {error}", where=str(file), hint="export the run again") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise RecordError(f"is of format {found!r}, not {FORMAT}", where=str(file), hint="use the SIA that wrote it")
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise RecordError(in_words(error, Manifest), where=str(file), hint="export the run again") from error
    for name, most in CEILINGS.items():
        if (value := getattr(manifest.task.limits, name)) > most:
            what = f"task.limits.{name}: {value:g} is not at most {most}"
            raise RecordError(what, where=str(file), hint="export the run again")
    return manifest


def _read_harness(folder: Path, expected: str) -> Harness:
    harness = Harness.load(folder, exact=True)
    if harness.digest != expected:
        what = f"harness has digest {harness.digest}, expected {expected}"
        raise HarnessError(what, where=str(folder), hint="files were changed: export the run again")
    return harness


def _read_adapter(folder: Path, expected: str) -> Adapter:
    hint = "the manifest names an adapter: copy the whole directory, or export the run again"
    if not folder.is_dir():
        raise PolicyError("the adapter is missing", where=str(folder), hint=hint)
    try:
        found = adapter_digest(folder)
    except PolicyError as error:
        raise PolicyError(f"the adapter is incomplete: {error.what}", where=error.where, hint=hint) from None
    if found != expected:
        what = f"adapter has digest {found}, expected {expected}"
        raise PolicyError(what, where=str(folder), hint="files were changed or are incomplete: export the run again")
    return Adapter(expected, folder)


def _check_file(path: Path, name: str, expected: str) -> None:
    """Check one file, except the card, which you may edit."""
    if name == CARD:
        return
    file = (path / name).resolve()
    if not file.is_relative_to(path.resolve()):
        raise RecordError(f"names {name!r}, a file outside the export", where=str(path / MANIFEST))
    if not file.is_file() or digest_path(file) != expected:
        what = f"{name} is missing or was changed"
        raise RecordError(what, where=str(path), hint="copy the whole directory, or export the run again")

"""The trainer as a Ray actor: its own process, no torch in the caller, killable.

Rounds are numbered and each leaves a checkpoint directory: a repeated request for a round is
answered from disk, and a new actor continues from the last round of one that died.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import ServiceError, SiaError
from sia_core.domain.rollout import Rollout
from sia_core.policy.base import share_cores
from sia_core.weights.groups import batch_digest
from sia_core.weights.manifest import check_manifest, identify, read_manifest
from sia_core.weights.spec import UpdateSpec

RESTARTS = 2

Round = tuple[Adapter, list[dict[str, float]]]
"""Adapter of a round, and metrics of its steps."""


@dataclass(frozen=True)
class Reference:
    """An adapter with a small, known effect, to compare a server with the trainer."""

    adapter: Adapter
    bare: Sequence[float]
    """Logprobs of the probe under the base model, by the trainer."""
    adapted: Sequence[float]
    """Logprobs of the probe under the adapter, by the trainer."""


class TrainerActor:
    """Holds a Trainer from the first round on."""

    def __init__(
        self, base: Path, spec: UpdateSpec, parent: Path | None, folder: Path, threads: int, device: str
    ) -> None:
        self._update, self._folder = (base, spec, parent), folder
        self._threads, self._device = threads, device
        self._trainer: Any = None

    def round(self, number: int, rollouts: Sequence[Rollout]) -> Round:
        """Train round `number` (from 1) from the checkpoint of the one before it."""
        if self._trainer is None:
            self._trainer = self._load()
        if self._trainer.round != number - 1:
            self._trainer.load(round_folder(self._folder, number - 1))
        try:
            steps = self._trainer.train(rollouts)
        except BaseException:
            self._trainer = None  # The round may be half done.
            raise
        adapter: Adapter = self._trainer.save(round_folder(self._folder, number), steps)
        return adapter, [asdict(step) for step in steps]

    def reference(self) -> None:
        """Write the reference adapter of the update's base and rank."""
        self._load().save_reference(reference_folder(self._folder))

    def _load(self) -> Any:
        share_cores()
        from sia_core.weights.trainer import Trainer  # Loads torch and PEFT.

        return Trainer(*self._update, threads=self._threads, device=self._device)


class TrainerHandle:
    """The driver's side of a TrainerActor. Use as a context manager."""

    def __init__(
        self,
        base: Path,
        spec: UpdateSpec,
        parent: Adapter | None,
        folder: Path,
        *,
        threads: int,
        device: str = "auto",
        gpus: float = 0.0,
    ) -> None:
        """Make a trainer for `spec`. Ray must be connected.

        Args:
            base: directory of the base model.
            spec: the update.
            parent: adapter trained further.
            folder: for its checkpoints.
            threads: of the CPU.
            device: auto, cpu or cuda.
            gpus: that Ray sets aside; 0 lets it share those it sees.

        Raises:
            ServiceError: the cluster has not as many GPUs; Ray would wait for them for ever.
        """
        there = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
        if there < gpus:
            raise ServiceError(
                f"the trainer is to have {gpus:g} GPUs, the cluster has {there:g}",
                where="weight update",
                hint="change train_gpus under [resources] in task.toml, or use a larger cluster",
            )
        self._arguments = (base, spec, parent.path if parent else None, folder, threads, device)
        self._spec, self._folder, self._gpus = spec, folder, gpus
        self._actor: Any = None
        self.manifest: Mapping[str, Any] = {}
        """Manifest of the last round's checkpoint.

        `fallback`: reason for reading contexts one by one, or None.
        `probe`: the trainer's logprobs, for `serving`.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def round(self, number: int, rollouts: Sequence[Rollout]) -> Round:
        """Return the result of a round: from its checkpoint if there is one, else trained now.

        Raises:
            PolicyError: these rollouts cannot be trained on, or the checkpoint belongs to another update.
            ServiceError: the training process died several times.
        """
        result = self._round(number, rollouts)
        self.manifest = read_manifest(round_folder(self._folder, number)) or {}
        return result

    def _round(self, number: int, rollouts: Sequence[Rollout]) -> Round:
        expected = {"spec_id": self._spec.id, **identify(self._arguments[0]), "batch": batch_digest(rollouts)}
        done = _read_round(round_folder(self._folder, number), expected)
        if done is not None:
            return done
        result: Round = self._ask(lambda actor: actor.round.remote(number, list(rollouts)))
        return result

    def reference(self) -> Reference:
        """Return the reference adapter of the update's base and rank, with the trainer's logprobs of the probe.

        Raises:
            ServiceError: the training process died several times.
        """
        folder = reference_folder(self._folder)
        expected = {"spec_id": self._spec.id, **identify(self._arguments[0])}
        if any((read_manifest(folder) or {}).get(name) != value for name, value in expected.items()):
            self._ask(lambda actor: actor.reference.remote())
        manifest = read_manifest(folder) or {}
        return Reference(Adapter(manifest["adapter"], folder / "adapter"), manifest["bare"], manifest["probe"])

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        for _ in range(RESTARTS + 1):
            if self._actor is None:
                actor = ray.remote(TrainerActor).options(num_cpus=0, num_gpus=self._gpus)
                self._actor = actor.remote(*self._arguments)
            try:
                return ray.get(call(self._actor))
            except RayTaskError as error:
                if isinstance(error.cause, SiaError):
                    raise error.cause from None
                raise
            except RayActorError:
                self._actor = None
        raise ServiceError(f"the training process died {RESTARTS + 1} times", where="weight update")


def round_folder(folder: Path, number: int) -> Path:
    """Directory of the checkpoint of round `number`."""
    return folder / f"round-{number}"


def reference_folder(folder: Path) -> Path:
    """Directory of the reference adapter."""
    return folder / "reference"


def _read_round(folder: Path, expected: Mapping[str, str]) -> Round | None:
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    check_manifest(manifest, expected, folder)
    return Adapter(manifest["adapter"], folder / "adapter"), manifest["metrics"]

"""Exports for tests, of the toy task's harness."""

import json
from pathlib import Path

from sia_core.domain.harness import Harness
from sia_core.domain.task import Task
from sia_core.export.manifest import (
    ADAPTER,
    HARNESS,
    MANIFEST,
    Interval,
    Manifest,
    PolicyPart,
    SealedTest,
    TaskPart,
    list_files,
)
from sia_core.policy.base import ADAPTER_FILES, adapter_digest
from sia_core.policy.scripted import ScriptedPolicy
from tests.factories import TOY


def make_export(folder: Path, *, base: str | None = None, policy: str = "scripted", digest: str = "") -> Path:
    """An export in a new directory; with an adapter's files, which are no adapter's, where a base is named."""
    task = Task.load(TOY)
    harness = Harness.load(Path(TOY) / "harness")
    for name, data in harness.files.items():
        (folder / HARNESS / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / HARNESS / name).write_bytes(data)
    if base is not None:
        (folder / ADAPTER).mkdir()
        config = json.dumps({"base_model_name_or_path": f"sha256:{base}"})
        for name, data in zip(ADAPTER_FILES, (config.encode(), b"weights"), strict=True):
            (folder / ADAPTER / name).write_bytes(data)
    zero = Interval(mean=0.0, low=0.0, high=0.0)
    manifest = Manifest(
        sia="0",
        run="toy-000000",
        node=0,
        harness=harness.digest,
        adapter=adapter_digest(folder / ADAPTER) if base is not None else None,
        task=TaskPart(
            name=task.name,
            digest=task.digest,
            title=task.config.title,
            metric=task.config.metric,
            score_range=task.config.score_range,
            sampling=task.config.sampling,
            limits=task.config.limits,
            problem_keys=("number",),
            shares_files=False,
        ),
        policy=PolicyPart(spec=policy, digest=digest or ScriptedPolicy.digest, base=base, threads=1, batch=1),
        test=SealedTest(
            seed=1, problems=3, rollouts=2, confidence=0.9, final=zero, first=zero, gain=zero, scores={"test-0": [0.0]}
        ),
        files=list_files(folder),
    )
    return write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Put a manifest into an export; returns the export."""
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")))
    return folder

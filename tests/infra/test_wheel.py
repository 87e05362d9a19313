"""Test that the files for the wheel are all that the product imports and reads.

tests/e2e/test_wheel.py shows that a built wheel holds these files and works outside of the checkout.
"""

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.test_imports import files, imports

ROOT = Path(__file__).parents[2]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
PACKAGES = WHEEL["packages"]


def shipped() -> set[str]:
    """Files of the packages that the wheel is made of, as hatchling takes them: all but what git ignores."""
    found = (file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in found if "__pycache__" not in file.parts} | {
        *WHEEL["force-include"].values()
    }


def test_every_package_that_is_imported_is_shipped() -> None:
    ours = {folder.name for folder in ROOT.iterdir() if folder.is_dir() and any(folder.glob("*.py"))}
    assert set(PACKAGES) <= ours
    wanted = {
        (one.module.split(".")[0], str(one))
        for path in files()
        if path.relative_to(ROOT).parts[0] in PACKAGES
        for one in imports(path)
        if one.module.split(".")[0] in ours
    }
    assert not [where for package, where in wanted if package not in PACKAGES]


def test_shipped_files_are_not_ignored_by_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    names = "\n".join(sorted(shipped()))
    done = subprocess.run(
        ["git", "check-ignore", "--stdin", "--no-index"],
        input=names,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert not done.stdout, "hatchling leaves out what git ignores"


def test_files_read_at_run_time_are_shipped() -> None:
    names = shipped()
    for task in ("denoising", "lawbench", "trimul"):
        assert {f"tasks/{task}/{name}" for name in ("task.toml", "task.md", "task.py", "README.md")} <= names
        assert any(name.startswith(f"tasks/{task}/harness/") for name in names)
    for kind in ("answer", "classify", "program"):
        place = f"sia_core/templates/{kind}"
        assert {f"{place}/{name}" for name in ("task.toml", "task.md", "task.py", "README.md")} <= names
        assert {f"{place}/harness/{name}" for name in ("harness.toml", "agent.py")} <= names
    assert {
        "sia_core/py.typed",
        "sia_core/constraints.txt",
        "sia_core/engine/sdk/sia_sdk.py",
        "sia_core/agents/prompts/feedback.md",
    } <= names

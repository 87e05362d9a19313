"""docs/own-task.md, typed as it stands: from an empty directory to a winner that scores again what was reported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import make_sia

pytestmark = pytest.mark.slow
TUTORIAL = Path(__file__).parents[2] / "docs" / "own-task.md"
_BLOCK = re.compile(r"^```(shell|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tutorial_ends_with_a_winner_that_scores_again(tmp_path: Path, prefect_api: str, empty_store: Path) -> None:
    sia = make_sia(tmp_path, prefect_api, empty_store)
    commands, work = tmp_path / "bin", tmp_path / "work"
    commands.mkdir()
    work.mkdir()
    (commands / "sia").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sia_core.cli.main "$@"\n')
    (commands / "sia").chmod(0o755)
    environment = {**sia.environment, "PATH": f"{commands}:{os.environ['PATH']}", "MPLBACKEND": "Agg"}
    said = []
    blocks = _BLOCK.findall(TUTORIAL.read_text())
    assert [kind for kind, _ in blocks] == ["shell", "shell", "shell", "python"]
    for kind, text in blocks:
        command = ["bash", "-euc", text] if kind == "shell" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    made, ran, taken, scripted = said
    assert "curves is sound" in made and made.count("\nok ") + made.startswith("ok ") == 11

    # The winner scores what the run reported: mean, interval, and each rollout.
    (final,) = re.findall(r"final \(node \d+\) (\S+ \[\S+ \S+\])", ran.split("sealed test")[-1])
    assert f"scored    {final}" in taken and "every rollout scored what the record says" in taken
    assert "the interval lies above 0" in ran
    assert (work / "winner-2" / "sia.json").is_file() and "True" in scripted

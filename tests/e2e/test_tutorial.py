"""The tutorials, typed as they stand: from an empty directory to a report, and to a winner that scores again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import make_sia
from tests.tutorials import TUTORIALS, to_run

pytestmark = pytest.mark.slow
FIRST_RUN, OWN_TASK = TUTORIALS


def follow(page: Path, folder: Path, environment: dict[str, str]) -> list[str]:
    """Type the blocks of a page in a directory, in their order, and return the output of each."""
    commands, work = folder / "bin", folder / "work"
    commands.mkdir()
    work.mkdir()
    (commands / "sia").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sia_core.cli.main "$@"\n')
    (commands / "sia").chmod(0o755)
    environment = {**environment, "PATH": f"{commands}:{os.environ['PATH']}", "MPLBACKEND": "Agg"}
    said = []
    for kind, text in to_run(page):
        command = ["bash", "-euc", text] if kind == "shell" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    return said


def test_first_run_ends_with_a_page_to_read(tmp_path: Path, prefect_api: str, empty_store: Path) -> None:
    sia = make_sia(tmp_path, prefect_api, empty_store)
    # Tests fetch nothing: the data that the installed packages hold, instead of the ones that the page speaks of.
    environment = {**sia.environment, "SIA_DENOISING_DATA": "pbmc68k-alone"}
    able, ran, shown, reported = follow(FIRST_RUN, tmp_path, environment)
    assert "a run can start" in able
    assert all(step in ran for step in ("execute: 16", "rung minibatch", "gate, child", "sealed test (6 problems"))
    run = sia.run()
    assert [node.lever for node in run.nodes()] == ["seed", "harness"]
    assert run.name in shown and "gain over parent" in shown
    assert reported.split() == ["report.html"] and run.name in (tmp_path / "work" / "report.html").read_text()


def test_own_task_ends_with_a_winner_that_scores_again(tmp_path: Path, prefect_api: str, empty_store: Path) -> None:
    sia = make_sia(tmp_path, prefect_api, empty_store)
    made, ran, taken, scripted = follow(OWN_TASK, tmp_path, sia.environment)
    assert "curves is sound" in made and made.count("\nok ") + made.startswith("ok ") == 11

    # The winner scores what the run reported: mean, interval, and each rollout.
    (final,) = re.findall(r"final \(node \d+\) (\S+ \[\S+ \S+\])", ran.split("sealed test")[-1])
    assert f"scored    {final}" in taken and "every rollout scored what the record says" in taken
    assert "the interval lies above 0" in ran
    assert (tmp_path / "work" / "winner-2" / "sia.json").is_file() and "True" in scripted

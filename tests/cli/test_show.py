"""A run's result in a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from sia_core.cli import show
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import Record, RunRecord, open_record
from sia_core.record.tags import Tag
from tests.report.made import make_run
from tests.report.test_decided import NODES


@pytest.fixture
def store(store_home: Path) -> Record:
    return open_record(store_home, None)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Output of a terminal of 100 columns."""
    out = io.StringIO()
    monkeypatch.setattr(show, "console", Console(file=out, width=100))
    return out


def test_run_in_which_rules_stood_in_says_so_at_its_end(
    store: Record, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(store, with_generations=False)
    nodes = [run.nodes()[0], *NODES[1:]]
    monkeypatch.setattr(RunRecord, "nodes", lambda _: nodes)
    show.print_result(run)
    lines = said.getvalue().splitlines()
    assert lines[-1] == "rules decided in place of openai:gpt-x in generation 2: no decision in 30 turns"
    assert any(line.startswith("predictions of rules:") for line in lines)
    assert any(line.startswith("looks, rollouts, tokens: in a terminal of") for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_texts_of_agents_make_no_emoji() -> None:
    with show.console.capture() as shown:
        show.print_table(["a"], [["openai:m: :bomb:"]])
        show.console.print("openai:m: :bomb:")
    assert shown.get().count("openai:m: :bomb:") == 2


def test_comparison_names_its_runs_in_which_rules_stood_in(store: Record, said: io.StringIO) -> None:
    comparison = ArmsRecord.create(store, "toy", "about", {})
    for arm, count in (("choice", "2"), ("harness", "0")):
        make_run(store, with_generations=False, tags={**comparison.member_tags(0, arm), Tag.STAND_INS: count})
    show.print_stand_ins(comparison)
    run = comparison.members()[0, "choice"].name
    assert " ".join(said.getvalue().split()) == (
        f"{run}: rules decided 2 times in place of its agent (sia status {run})"
    )

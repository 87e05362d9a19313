"""Runs are compared with intervals, tallies and costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.domain.errors import RecordError, UsageError
from sia_core.loop import create_run
from sia_core.record.arms import SCORES
from sia_core.record.store import Record, RunRecord
from sia_core.report.compare import compare_page, compare_runs, notes, run_rows
from sia_core.report.links import mlflow_comparison
from sia_core.report.problems import Tally
from sia_core.search.gate import sealed_gain
from tests.report.made import PROBLEMS, make_run
from tests.report.pages import check_accessible, elements, parse, text_of


@pytest.fixture(scope="module")
def better(store: Record) -> RunRecord:
    return make_run(store, with_generations=False, final=(0.7, 0.5, 0.3), seed=3, workers=2)


def test_problems_are_won_lost_and_tied(finished_run: RunRecord, better: RunRecord) -> None:
    found = compare_runs([finished_run, better])
    (versus,) = found.versus
    assert versus.tally == Tally(wins=1, losses=1, ties=1)
    assert (versus.run, versus.other) == (better.name, finished_run.name)
    before, after = (run.get_json(SCORES)["final"] for run in (finished_run, better))
    expected = sealed_gain(before, after, 0.9)
    assert versus.gain == expected and expected.low < 0 < expected.high
    assert {one.setting: one.values for one in found.differences} == {"seed": ("0", "3"), "workers": ("none", "2")}


def test_cost_of_a_point_is_given_where_a_gain_was_shown(store: Record, finished_run: RunRecord) -> None:
    worse = make_run(store, with_generations=False, final=(0.3, 0.3, 0.3))
    rows = compare_runs([finished_run, worse]).rows
    assert rows[0].point is not None
    # 26 rollouts and 360 tokens for 0.2, which are 20 points.
    assert (rows[0].point.rollouts, rows[0].point.tokens) == pytest.approx((1.3, 18.0))
    assert rows[1].point is None
    assert "no gain shown" in run_rows(compare_runs([finished_run, worse]))[1]


def test_run_whose_agent_did_not_decide_is_named(
    finished_run: RunRecord, better: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("in place of" in note for note in notes(compare_runs([finished_run, better])))
    first, second, _ = finished_run.nodes()
    assert second.decision is not None
    made = replace(second, decision=replace(second.decision, instead_of="openai:m", refused=("openai:m: no decision",)))
    monkeypatch.setattr(RunRecord, "nodes", lambda run: [first, made] if run.name == better.name else [first])
    said = next(iter(notes(compare_runs([finished_run, better]))))
    assert said == f"{better.name}: rules decided in place of openai:m in generation 1: no decision"


def test_only_common_problems_count(store: Record, finished_run: RunRecord) -> None:
    other = make_run(store, with_generations=False)
    scores = {"p2": [0.1], "p3": [0.2], "p9": [0.3]}
    other.put_json(SCORES, {"seed": scores, "final": scores, "cost": {}})
    found = compare_runs([finished_run, other])
    assert [pair.problem for pair in found.versus[0].pairs] == ["p2", "p3"]
    assert any("sealed on different problems" in note for note in notes(found))


def test_runs_that_cannot_be_compared_are_refused_with_the_reason(store: Record, finished_run: RunRecord) -> None:
    with pytest.raises(UsageError, match="at least two runs"):
        compare_runs([finished_run])
    with pytest.raises(UsageError, match="is named twice"):
        compare_runs([finished_run, finished_run])
    with pytest.raises(UsageError, match="different tasks, toy and other"):
        compare_runs([finished_run, make_run(store, with_generations=False, tags={"sia.task": "other"})])
    with pytest.raises(UsageError, match="two versions of task toy"):
        compare_runs([finished_run, make_run(store, with_generations=False, tags={"sia.task_digest": "0" * 64})])
    with pytest.raises(RecordError, match="has no sealed test yet"):
        compare_runs([finished_run, make_run(store, with_generations=False, finished=False)])
    apart = make_run(store, with_generations=False)
    apart.put_json(SCORES, {"seed": {"q": [0.1]}, "final": {"q": [0.1]}, "cost": {}})
    with pytest.raises(UsageError, match="share no sealed problem") as caught:
        compare_runs([finished_run, apart])
    assert "--seed" in caught.value.hint


def test_single_common_problem_gives_no_interval(store: Record, finished_run: RunRecord) -> None:
    other = make_run(store, with_generations=False)
    other.put_json(SCORES, {"seed": {"p1": [0.1]}, "final": {"p1": [0.1]}, "cost": {}})
    (versus,) = compare_runs([finished_run, other]).versus
    assert versus.gain is None and versus.tally.losses == 1


def test_comparison_page_is_sound_and_links_to_mlflow(
    finished_run: RunRecord, better: RunRecord, store: Record
) -> None:
    third = make_run(store, with_generations=False)
    link = mlflow_comparison("http://127.0.0.1:5000", ["1", "1"], ["a", "b"])
    assert link == "http://127.0.0.1:5000/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%221%22%5D"
    root = parse(compare_page(compare_runs([finished_run, better, third]), link))
    check_accessible(root)
    assert [one.get("href") for one in elements(root, "a") if "http" in one.get("href", "")] == [link]
    assert "not corrected for their number" in text_of(root)


def test_compare_command_prints_json_and_writes_html(
    store: Record, finished_run: RunRecord, better: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_HOME", str(store.cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names = [finished_run.name, better.name]
    done = CliRunner().invoke(app, ["compare", *names, "--json", "--html", str(tmp_path / "c.html")])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [row["name"] for row in data["rows"]] == names
    assert data["versus"][0]["tally"] == {"wins": 1, "losses": 1, "ties": 1}
    assert [pair["problem"] for pair in data["versus"][0]["pairs"]] == list(PROBLEMS)
    assert better.name in (tmp_path / "c.html").read_text()
    assert data["mlflow"] is None  # Its server does not run.
    monkeypatch.setattr(create_run, "mlflow_address", lambda: "http://127.0.0.1:5000")
    shown = CliRunner().invoke(app, ["compare", *names])
    assert shown.exit_code == 0 and "compare-runs" in shown.output and "losses" in shown.output

"""The report of a run states its results, is sound HTML and stays small."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.domain.candidate import Candidate
from sia_core.domain.errors import RecordError
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Cost
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import Record, RunRecord
from sia_core.report.facts import read_facts
from sia_core.report.page import LIMIT, report
from sia_core.search.arms import ArmRun, Comparison, compare
from tests.report.made import CONFIG, PROBLEMS, make_run, play
from tests.report.pages import check_accessible, check_inert, elements, parse, text_of


@pytest.fixture(scope="module")
def page(finished_run: RunRecord) -> str:
    return report(finished_run)


@pytest.fixture(scope="module")
def tree(page: str) -> Element:
    return parse(page)


def by_id(tree: Element, name: str) -> Element:
    return next(one for one in tree.iter() if one.get("id") == name)


def test_report_page_is_sound_inert_and_accessible(tree: Element) -> None:
    check_inert(tree)
    check_accessible(tree)


def test_report_page_states_how_the_run_ended(tree: Element, finished_run: RunRecord) -> None:
    said = text_of(tree)
    assert finished_run.name in text_of(next(elements(tree, "title")))
    assert "Improved: +0.2000 [+0.1000, +0.3000] over the seed on the sealed test." in said
    assert "better on 3 problems, worse on 0, the same on 0" in said
    assert "Ended by rule generations" in said
    assert "gain predicted +0.0500, observed +0.2000" in said
    assert "4.0%" not in said and "4%" in text_of(by_id(tree, "spending"))  # 40 of 1000 rollouts.


def test_every_generation_shows_prediction_outcome_and_training(tree: Element) -> None:
    first, second = (text_of(by_id(tree, f"generation-{index}")) for index in (1, 2))
    assert "+0.0500 (+0.0000 to +0.1000)" in first and "Predicted +0.0500, observed +0.2000." in first
    assert "Promoted: the bound lies above 0" in first
    assert "No child: no round was better than the parent" in second
    assert "2 rounds of 2 steps, learning rate 0.0001, rank 8" in second
    assert "own (the project's step)" in second
    drawn = [text_of(next(elements(one, "title"))) for one in elements(by_id(tree, "generation-2"), "svg")]
    assert [title for title in drawn if title.endswith("over steps")] == ["reward over steps", "loss over steps"]


def test_diff_marks_what_changed(tree: Element) -> None:
    diff = next(one for one in elements(by_id(tree, "generation-1"), "pre") if one.get("class") == "diff")
    marked = [(line.get("class"), text_of(mark)) for line in elements(diff, "span") for mark in elements(line, "mark")]
    assert marked == [("del", "1"), ("add", "2")]


def test_cited_rollouts_are_linked_and_readable(tree: Element, finished_run: RunRecord) -> None:
    decision = finished_run.nodes()[1].decision
    assert decision is not None
    links = {link.attrib["href"] for link in elements(by_id(tree, "generation-1"), "a")}
    assert links == {f"#r-{key[:16]}" for key in decision.cites}
    shown = text_of(by_id(tree, f"r-{decision.cites[0][:16]}"))
    assert "the same" in shown and "characters as before" in shown and "plain words" in shown
    assert "score 0, failed: error: plain words" in text_of(by_id(tree, f"r-{decision.cites[1][:16]}"))


def test_every_chart_has_its_figures_in_a_table(tree: Element) -> None:
    captions = " ".join(text_of(one) for one in elements(tree, "caption"))
    for words in ("Scores with two-sided intervals", "each sealed problem", "each gate problem", "update by step"):
        assert words in captions
    scores = next(table for table in elements(tree, "table") if "two-sided" in text_of(table))
    assert len(list(elements(scores, "tr"))) == 1 + 2 + 2 + 2  # train twice, one gate's sides, both sealed sides.


def test_unfinished_run_shows_its_phases_so_far(store: Record) -> None:
    run = make_run(store, finished=False, with_generations=False)
    run.generation(1)
    said = text_of(parse(report(run)))
    assert "The sealed test has not been run" in said and "Begun; nothing is complete yet." in said


def test_stand_in_of_rules_is_the_first_notice(finished_run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = finished_run.nodes()
    assert second.decision is not None
    made = replace(second.decision, instead_of="openai:m@http://h/v1", refused=("openai:m@http://h/v1: no decision",))
    monkeypatch.setattr(RunRecord, "nodes", lambda _: [first, replace(second, decision=made), third])
    tree = parse(report(finished_run))
    check_accessible(tree)
    header = next(elements(tree, "header"))
    assert [text_of(one).strip() for one in header][1] == (
        "rules decided in place of openai:m in generation 1: no decision"
    )
    assert "rules decided 1 of 2 times in its place" in text_of(header)
    table = next(one for one in elements(tree, "table") if "Nodes of the lineage" in text_of(one))
    assert "decided by" in text_of(table)


def test_run_without_a_stand_in_has_no_notice(tree: Element) -> None:
    assert "in place of" not in text_of(tree)


def test_run_that_never_began_is_an_error(store: Record) -> None:
    run = store.create(CONFIG, {"sia.task": "toy"})
    assert "There is no first candidate yet." in text_of(parse(report(run)))
    folder = run.record.client.get_run(run.run_id).info.artifact_uri.removeprefix("file://")
    Path(folder, "config.json").unlink()
    with pytest.raises(RecordError, match=r"config\.json is missing"):
        report(run)


def test_arm_is_shown_beside_the_others(store: Record) -> None:
    arms = ArmsRecord.create(store, "toy", "about", {})
    run = make_run(store, with_generations=False, tags=arms.member_tags(0, "harness"))
    assert "were not all finished" in text_of(parse(report(run)))
    sides = [
        ArmRun(arm, seed, "r", {"p": [0.5, 0.6], "q": [0.4, 0.4]}, {"p": [0.2, 0.1], "q": [0.1, 0.1]}, Cost(9, 90, 1.0))
        for arm in ("harness", "best-of-n")
        for seed in (0, 1)
    ]
    found = compare(sides, confidence=0.9)
    assert read(Comparison, json.loads(json.dumps(asdict(found)))) == found
    arms.put_json("comparison.json", asdict(found))
    said = text_of(by_id(parse(report(run)), "arms"))
    assert "best-of-n" in said and "the verifier choose" in said


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_rollouts_make_a_page_that_opens(store: Record, count: int) -> None:
    run = make_run(store, with_generations=False)
    one = play(Candidate("h"), "train", 0, 0.5, "x <&> " * 300)
    units = [replace(one.unit, seed=at, problem=f"p{at % 700}") for at in range(count)]
    run.generation(1).put_rollouts("train", [replace(one, unit=unit) for unit in units])
    page = report(run)
    assert len(page.encode()) < LIMIT / 5
    assert f"of {count} recorded rollouts are shown as transcripts" in page


def test_very_long_texts_leave_a_page_below_the_limit(store: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(store, "&" * 30_000)
    whole = report(run)
    assert len(whole) < LIMIT
    monkeypatch.setattr("sia_core.report.page.LIMIT", len(whole) - 1)
    less = report(run)
    assert len(less) < len(whole)
    shown = [page.count('class="rollout"') for page in (whole, less)]
    assert shown[1] < shown[0] and f"{shown[1]} of 18 recorded rollouts" in less


def test_report_command_writes_the_file(
    store: Record, finished_run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_HOME", str(store.cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "there" / "run.html"
    done = CliRunner().invoke(app, ["report", finished_run.name, "--out", str(out)])
    assert (done.exit_code, done.output.strip()) == (0, str(out))
    assert out.read_text() == report(finished_run)
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["report", finished_run.name, "--out", str(tmp_path / "file" / "x.html")])
    assert "cannot be written" in str(done.exception)


def test_facts_count_every_rollout(finished_run: RunRecord) -> None:
    facts = read_facts(finished_run)
    first = facts.generations[0]
    assert first.train is not None
    assert [len(first.train.rows), *(len(one.rows) for one in first.children[0].played.values())] == [5, 4, 4]
    assert set(first.train.scores) == {"p1", "p2"} and set(PROBLEMS) == set(facts.sealed[0] if facts.sealed else ())

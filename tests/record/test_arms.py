"""Comparisons in a real MLflow store are found by name, extended, and held by a single process."""

from pathlib import Path

import pytest

from sia_core.domain.errors import HeldError, RecordError
from sia_core.record.arms import ArmsRecord
from sia_core.record.lease import hold, refuse_held
from sia_core.record.store import Record, open_record
from sia_core.search.arms import plan_arms
from tests.record.test_lease import ELSEWHERE, claim
from tests.record.test_record import CONFIG


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return open_record(tmp_path_factory.mktemp("home"), None)


@pytest.fixture
def comparison(store: Record) -> ArmsRecord:
    plan = plan_arms(CONFIG, ["harness", "choice"], seeds=1)
    return ArmsRecord.create(store, "toy", plan.about, plan.model_dump(mode="json"))


def test_comparison_is_found_by_its_name_and_grows(store: Record, comparison: ArmsRecord) -> None:
    plan = plan_arms(CONFIG, ["harness", "choice"], seeds=4)
    comparison.set_plan(plan.about, plan.model_dump(mode="json"))
    again = ArmsRecord.open(store, comparison.name)
    assert (again.plan["seeds"], again.task, again.status) == (4, "toy", "RUNNING")
    assert "4 seeds" in again.tags["mlflow.note.content"]
    assert comparison.name in [one.name for one in ArmsRecord.list_all(store)]
    with pytest.raises(RecordError, match="unknown comparison 'nosuch'"):
        ArmsRecord.open(store, "nosuch")


def test_runs_of_a_comparison_are_found_by_seed_and_arm(store: Record, comparison: ArmsRecord) -> None:
    tags = {"sia.task": "toy", "sia.task_digest": "d"}
    run = store.create(CONFIG, {**tags, **comparison.member_tags(3, "choice")})
    store.create(CONFIG, tags)
    assert {key: one.name for key, one in comparison.members().items()} == {(3, "choice"): run.name}
    summary = comparison.summaries()[3, "choice"]
    assert (summary.name, summary.status, summary.score) == (run.name, "RUNNING", None)


def test_where_a_run_is_asked_for_a_comparison_is_called_one(store: Record, comparison: ArmsRecord) -> None:
    with pytest.raises(RecordError, match="is a comparison, not a run") as raised:
        store.open(comparison.name)
    assert f"sia arms --resume {comparison.name}" in raised.value.hint


def test_comparison_is_held_by_a_single_process(store: Record, comparison: ArmsRecord, tmp_path: Path) -> None:
    other = ArmsRecord.open(store, comparison.name)
    with hold(comparison):
        with pytest.raises(HeldError, match="is being run by"), hold(other):
            pytest.fail("two hold it")
        with pytest.raises(HeldError, match="it is alive"):
            refuse_held(other)
    with hold(other) as lease:
        assert lease.claim.token == 2
        claim(other, 3, ELSEWHERE)
        with pytest.raises(HeldError, match="was taken over"):
            lease.check(surely=True)
        with pytest.raises(HeldError, match="was taken over"):
            other.end("FINISHED")

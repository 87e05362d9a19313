"""A run seen from elsewhere."""

import json
import re
import time
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.cli.watch import _place, headline
from sia_core.domain.candidate import Candidate
from sia_core.domain.errors import RecordError
from sia_core.domain.lineage import Cost
from sia_core.domain.plan import Shape
from sia_core.host.progress import Wait
from sia_core.record.beacon import SILENCE, Progress
from sia_core.record.phases import AnalyzeDone, ExecuteDone, ImproveDone, StopDone
from sia_core.record.store import Record, RunRecord
from sia_core.record.tags import Tag
from sia_core.report.pulse import Watcher
from tests.report.made import CONFIG, evidence, make_run


def heard(run: RunRecord, ago: float, wait: Wait | None = None) -> None:
    progress = Progress("generation 3: gate, child", 7, 20, time.time() - ago, wait)
    run.set_tags({Tag.PROGRESS: json.dumps(asdict(progress))})


def test_phases_are_told_apart(store: Record) -> None:
    run = make_run(store, finished=False, generations=3)
    watcher = Watcher(run)
    assert (watcher.look().generation, watcher.look().phase, len(watcher.look().nodes)) == (2, "complete", 3)
    third = run.generation(3)
    assert (watcher.look().generation, watcher.look().phase) == (3, "execute")
    third.complete(ExecuteDone(node=0, why="the champion", cost=Cost(), shape=Shape(1, 1)))
    assert watcher.look().phase == "analyze"
    third.complete(AnalyzeDone(evidence=evidence(Candidate("h"), "words"), decisions=(), cost=Cost()))
    assert watcher.look().phase == "improve"
    third.complete(ImproveDone(nodes=()))
    run.complete(StopDone(rule="generations", reason="done", plateau={}))
    assert watcher.look().phase == "sealed test"


def test_a_run_that_has_no_harness_yet(store: Record) -> None:
    run = store.create(CONFIG, {"sia.task": "toy"})
    pulse = Watcher(run).look()
    assert (pulse.generation, pulse.phase, pulse.silent_s) == (0, "first harness", None)
    assert not pulse.lost


def test_silence_is_told_from_work(store: Record) -> None:
    run = make_run(store, finished=False, with_generations=False)
    heard(run, ago=1)
    assert "generation 3: gate, child: 7 of 20" in headline(Watcher(run).look())
    heard(run, ago=SILENCE + 60)
    assert "may have been killed" in headline(Watcher(run).look())
    run.end("KILLED")
    assert "killed" in headline(Watcher(run).look()) and not Watcher(run).look().lost


def test_wait_for_the_agent_is_seen_and_its_seconds_alone_are_no_news(store: Record) -> None:
    run = make_run(store, finished=False, with_generations=False)
    wait = Wait("asking the agent", 3, 12_300, began=time.time() - 40.0)
    heard(run, 1, wait)
    pulse = Watcher(run).look()
    assert re.search(r"; asking the agent: turn 3, 4\d s, 12,300 tokens$", headline(pulse))
    assert "gate, child" not in headline(pulse)
    assert pulse.progress is not None and pulse.silent_s is not None
    later = replace(pulse, silent_s=pulse.silent_s + 5)
    assert headline(later) != headline(pulse) and _place(later) == _place(pulse)
    next_turn = replace(pulse, progress=replace(pulse.progress, wait=replace(wait, turn=4)))
    assert _place(next_turn) != _place(pulse)


def test_a_look_that_fails_is_followed_by_another(finished_run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher, tries = Watcher(finished_run), []
    status = RunRecord.status

    def away(run: RunRecord) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("the server is away")
        return status.fget(run)  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(RunRecord, "status", property(away))
    assert watcher.look_again(0.0).ended and len(tries) == 3
    monkeypatch.setattr(RunRecord, "status", property(lambda run: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        watcher.look_again(0.0)


def test_the_command_ends_when_the_run_does(
    store: Record, finished_run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_HOME", str(store.cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = CliRunner().invoke(app, ["watch", finished_run.name])
    assert done.exit_code == 0 and "finished" in done.output and "sealed test" in done.output
    assert "\x1b" not in done.output
    killed = make_run(store, finished=False, with_generations=False)
    monkeypatch.setattr(time, "sleep", lambda _: killed.end("KILLED"))
    done = CliRunner().invoke(app, ["watch", killed.name])
    assert isinstance(done.exception, RecordError) and "ended as KILLED" in str(done.exception)
    assert CliRunner().invoke(app, ["watch", killed.name, "--once"]).exit_code == 0

"""The winner of a finished run is exported, and scores again as the record says."""

import json
import re
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.recording import read_recording
from sia_core.domain.task import Task
from sia_core.export.evaluate import sealed_units
from sia_core.export.manifest import Export
from sia_core.export.write import write_export
from sia_core.record.journal import Journal
from sia_core.record.phases import SealedDone
from tests.e2e.conftest import TOY, Finished, Sia


def test_winner_is_exported_with_its_scores_and_the_units_of_its_test(finished: Finished, tmp_path: Path) -> None:
    run, task = finished.sia.run(), Task.load(TOY)
    manifest = write_export(run, task, tmp_path / "winner")
    test = run.phase(SealedDone)
    assert test is not None
    export = Export.load(tmp_path / "winner")
    assert export.manifest == manifest
    assert export.harness.knobs["menu"] == "rich" and export.adapter is None
    assert manifest.test.final.mean == test.final.mean and len(manifest.test.scores) == 12

    # Its decisions are beside it, as in the record, and are looked after like every other file.
    kept = (tmp_path / "winner" / "decisions.json").read_bytes()
    assert kept == run.get_bytes("decisions.json") and "decisions.json" in manifest.files
    made = read_recording(tmp_path / "winner" / "decisions.json")
    assert made.agent == "rules" and made.run == run.name and made.used.turns == 0
    assert [one.harness for one in made.decisions] == [node.candidate.harness for node in run.nodes()[1:]]

    # What `sia eval` plays is what was played: each unit, by its key, is in the run's journal.
    units = sealed_units(export, task, manifest.policy.digest, None)
    with Journal(finished.sia.home / "runs" / run.name / "journal.db") as journal:
        played = journal.get(unit.key for unit in units)
    assert len(units) == 12 * 6 and set(played) == {unit.key for unit in units}
    assert len(sealed_units(export, task, manifest.policy.digest, 2)) == 12 * 2

    card = (tmp_path / "winner" / "README.md").read_text()
    for words in (f"{test.final.mean:.4f}", f"{test.seed.low:.4f}", "menu=rich", "rollouts", "Licences"):
        assert words in card, words
    assert "library_name: peft" not in card

    # The same run gives the same bytes, and nothing is overwritten.
    write_export(run, task, tmp_path / "again")
    for file in (tmp_path / "winner").rglob("*"):
        assert (
            file.is_dir()
            or file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "winner")).read_bytes()
        )
    assert "already exists" in finished.sia("export", run.name, str(tmp_path / "winner"), code=2)


@pytest.mark.slow
def test_export_scores_as_the_record_says(finished: Finished, tmp_path: Path) -> None:
    sia, winner, figures = finished.sia, tmp_path / "winner", tmp_path / "figures.json"
    sia("export", sia.run().name, str(winner))
    output = sia("eval", str(winner), str(TOY), "--json", str(figures))
    assert "every rollout scored what the record says" in output and "rollouts: 72" in output
    found = json.loads(figures.read_text())
    test = sia.run().phase(SealedDone)
    assert test is not None
    assert found["same"] is True
    assert {name: found["score"][name] for name in ("mean", "low", "high")} == found["recorded"]
    assert found["score"] == asdict(test.final)

    fewer = sia("eval", str(winner), str(TOY), "--rollouts", "1")
    assert "1 rollouts a problem, the record has 6" in fewer
    assert "is not the task of the export" in sia("eval", str(winner), "denoising", code=3)
    (winner / "harness" / "agent.py").write_text("")
    assert "expected" in sia("eval", str(winner), str(TOY), code=4)


@pytest.mark.slow
def test_trained_adapter_is_exported_and_scores_again(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = ("--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    sia("run", str(TOY), "--policy", f"local:{tiny_model}", *options)
    winner = tmp_path / "winner"
    sia("export", sia.run().name, str(winner))
    assert "every rollout scored what the record says" in sia("eval", str(winner), str(TOY))
    assert "library_name: peft" in (winner / "README.md").read_text()

    # The adapter is one that PEFT and transformers load, and it changes what the model says.
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = PeftModel.from_pretrained(base, winner / "adapter").merge_and_unload()
    changed = [name for name, weight in model.state_dict().items() if not weight.equal(plain[name])]
    assert changed

    moved = tmp_path / "moved"
    tiny_model.rename(moved)
    try:
        assert "--policy local:DIR" in sia("eval", str(winner), str(TOY), code=5)
        assert "every rollout scored" in sia("eval", str(winner), str(TOY), "--policy", f"local:{moved}")
    finally:
        moved.rename(tiny_model)
    (winner / "adapter").rename(tmp_path / "gone")
    assert "the adapter is missing" in sia("eval", str(winner), str(TOY), code=5)


@pytest.mark.slow
def test_export_is_served_to_the_openai_client(finished: Finished, tmp_path: Path) -> None:
    from openai import AuthenticationError, BadRequestError, OpenAI

    sia, winner = finished.sia, tmp_path / "winner"
    sia("export", sia.run().name, str(winner))
    server = sia.start("serve", str(winner), "--port", "0")
    try:
        assert server.stdout is not None
        token = server.stdout.readline().split()[1]
        (address,) = re.findall(r"http://\S+/v1", server.stdout.readline())
        client = OpenAI(base_url=address, api_key=token, max_retries=0)
        problem: Any = [{"role": "user", "content": json.dumps({"number": 7})}]
        made = client.chat.completions.create(model="agent", messages=problem, seed=3)
        answer = json.loads(made.choices[0].message.content or "")
        assert answer["colour"] in ("red", "green", "blue", "violet")
        with pytest.raises(BadRequestError, match="lacks number"):
            client.chat.completions.create(model="agent", messages=[{"role": "user", "content": "{}"}])
        with pytest.raises(AuthenticationError):
            OpenAI(base_url=address, api_key="wrong", max_retries=0).models.list()
        assert "is not available" in sia(
            "serve", str(winner), "--port", address.split(":")[-1].removesuffix("/v1"), code=8
        )
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130

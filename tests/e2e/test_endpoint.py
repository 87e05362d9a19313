"""A whole run against a model over HTTP, and its replay from the log of replies without a model."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.record.phases import SealedDone
from tests.e2e.conftest import TOY, Sia
from tests.wire.server import Wire, chat, error, serve

KEY = "sk-secret-5b21"
OPTIONS = ("--generations", "1", "--rollouts", "2", "--problems", "3", "--levers", "harness", "--no-ui")


def answer(handler: Any, body: dict[str, Any]) -> None:
    """Any of the options, by the request's seed."""
    schema = body["response_format"]["json_schema"]["schema"]
    picked = random.Random(body["seed"]).choice(schema["properties"]["choice"]["enum"])
    chat(json.dumps({"choice": picked}))(handler, body)


@pytest.mark.slow
def test_run_over_an_endpoint_is_replayed_exactly(sia: Sia, tmp_path: Path) -> None:
    with serve() as wire:
        wire.answer = answer
        first = replace(sia, environment={**sia.environment, "OPENAI_API_KEY": KEY})
        output = first("run", str(TOY), "--policy", f"openai:m@{wire.url}/v1", *OPTIONS)
        run = first.run()
        asked = len(wire.requests)
        _on_the_wire(wire)
    assert "finished" in output
    log = first.home / "runs" / run.name / "replies.jsonl"
    assert len(log.read_text().splitlines()) == asked + 1
    for file in first.home.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file

    second = replace(
        sia, home=tmp_path / "replay", environment={**sia.environment, "SIA_HOME": str(tmp_path / "replay")}
    )
    second("run", str(TOY), "--policy", f"replay:{log}", *OPTIONS)
    again = second.run()
    assert [node.candidate for node in again.nodes()] == [node.candidate for node in run.nodes()]
    assert [node.gate for node in again.nodes()] == [node.gate for node in run.nodes()]
    assert again.phase(SealedDone) == run.phase(SealedDone)


def _on_the_wire(wire: Wire) -> None:
    assert wire.requests
    for _, headers, body in wire.requests:
        assert headers["authorization"] == f"Bearer {KEY}"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 1.0, 256)
        assert [message["role"] for message in body["messages"]] == ["user"]


def test_missing_key_is_named_before_anything_is_spent(sia: Sia) -> None:
    output = sia("run", str(TOY), "--policy", "anthropic:claude", "--no-ui", code=5)
    assert "ANTHROPIC_API_KEY is not set" in output
    assert "export ANTHROPIC_API_KEY" in output


@pytest.mark.slow
def test_refused_model_ends_before_the_run_and_refused_requests_stop_it(sia: Sia) -> None:
    mine = replace(sia, environment={**sia.environment, "OPENAI_API_KEY": KEY})
    with serve() as wire:
        command = ("run", str(TOY), "--policy", f"openai:m@{wire.url}/v1", *OPTIONS)
        wire.plays_contacts = True
        wire.answer = error(400, "Invalid model name passed in model=m")
        output = mine(*command, code=5)
        assert "Invalid model name passed in model=m" in output and "check the model's name" in output
        assert not list((mine.home / "runs").glob("*"))

        wire.plays_contacts = False
        wire.answer = error(400, "the prompt has 90 tokens, and the window 64")
        output = mine(*command, code=5)
        run = mine.run()
        assert "refused all" in output and "the window 64" in output and f"then: sia resume {run.name}" in output

        def picky(handler: Any, body: dict[str, Any]) -> None:
            if "temperature" in body:
                error(400, "temperature: Extra inputs are not permitted")(handler, body)
            else:
                answer(handler, body)

        wire.answer = picky
        contacts = len(wire.contacts)
        output = mine("resume", run.name, "--no-ui")
        assert len(wire.contacts) == contacts, "a resume asked again"
    again = mine.run()
    assert "finished" in output and "the server takes no temperature" in output
    assert again.tags["sia.not_sent"] == "policy: temperature" and again.tags["sia.choices"] == "schema"
    sealed = again.phase(SealedDone)
    assert sealed is not None and sealed.final.mean > 0
    spent = again.get_json("spending.json")["roles"]["connect"]
    assert spent["tokens"] == 20

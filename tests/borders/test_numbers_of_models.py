"""Numbers and texts of models that JSON parsers take and no record holds: refused in words, and nothing ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.command.desk import parse_object
from sia_core.agents.recording import read_recording
from sia_core.domain.errors import HarnessError, PolicyError
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import UnfitError, flaw, parse
from sia_core.engine.jsonl import BadJsonError
from sia_core.engine.jsonl import parse as parse_line
from sia_core.host.untrusted import UntrustedError
from tests.agents.recordings import content, entry
from tests.agents.test_llm import GOOD
from tests.borders.talks import body, call, message, plain, submit, talking, use

HUGE = "1" + "0" * 400
LITERALS = ("Infinity", "-Infinity", "NaN", "1e999", "-1e999", HUGE)
PLACES = ("predicted_gain", "predicted_low", "predicted_high", "parent", "knobs.tries", "update.learning_rate", "base")


def decision(place: str, literal: str) -> str:
    """Arguments of a decision with a literal at one place."""
    name, _, inner = place.partition(".")
    given: dict[str, Any] = {**GOOD, name: {inner: "HERE"} if inner else "HERE"}
    return json.dumps(given).replace('"HERE"', literal)


@pytest.mark.parametrize("literal", LITERALS, ids=lambda text: text[:9])
@pytest.mark.parametrize("place", PLACES)
def test_number_that_is_not_finite_comes_back_in_words(tmp_path: Path, place: str, literal: str) -> None:
    with talking("openai", tmp_path) as talk:
        made = talk.decide(plain(body(None, call(arguments=decision(place, literal)))), plain(submit()))
        assert made.predicted_gain == 0.1
        assert "not taken" in talk.texts and place in talk.texts
        again = talk.decide()
        assert again == made and len(talk.bodies) == 2, "a resume replays the log"
    json.dumps([talk.records[0]], allow_nan=False)


@pytest.mark.parametrize("literal", [*LITERALS[:4], "1e10", "-1e300"])
def test_prediction_beyond_its_range_is_refused_by_schema(tmp_path: Path, literal: str) -> None:
    with talking("anthropic", tmp_path) as talk:
        sent = json.dumps(message(use(given={**GOOD, "predicted_gain": "HERE"}))).replace('"HERE"', literal)
        made = talk.decide(plain(sent.encode()), plain(message(use())))
        assert made.lever == "harness"
        assert "predicted_gain" in talk.texts
        schema = next(tool for tool in talk.bodies[0]["tools"] if tool["name"] == "submit_decision")["input_schema"]
        assert schema["properties"]["predicted_gain"]["maximum"] == 1e9


@pytest.mark.parametrize("name", ["diagnosis", "hypothesis", "memo", "falsifier"])
def test_half_of_a_surrogate_pair_is_refused_in_words(tmp_path: Path, name: str) -> None:
    arguments = json.dumps({**GOOD, name: "a \ud83d b"})
    with talking("openai", tmp_path) as talk:
        assert talk.decide(plain(body(None, call(arguments=arguments))), plain(submit())).lever == "harness"
        assert f"{name}: a text with half of a surrogate pair" in talk.texts


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("list_rollouts", '{"min_score": NaN}'),
        ("list_rollouts", '{"max_score": 1e999}'),
        ("try_harness", '{"knobs": {"tries": Infinity}}'),
        ("try_harness", f'{{"rollouts": {HUGE}}}'),
        ("list_nodes", f'{{"offset": {HUGE}}}'),
        ("read_rollout", f'{{"id": "a", "start": {HUGE}}}'),
        ("diff_harnesses", f'{{"before": {HUGE}, "after": 0}}'),
        ("read_update", f'{{"node": {HUGE}}}'),
        ("list_nodes", '{"offset": ' + "[" * 3000 + "]" * 3000 + "}"),
        ("list_nodes", "1" * 5000),
    ],
)
def test_number_of_a_reading_tool_is_answered_with_the_error(tmp_path: Path, tool: str, arguments: str) -> None:
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(body(None, call(tool, arguments))), plain(submit()))
        (answer,) = (one["content"] for one in talk.bodies[1]["messages"] if one["role"] == "tool")
        assert answer.startswith("error: ")


@pytest.mark.parametrize("literal", [*LITERALS, '"\\ud800"'], ids=lambda text: text[:9])
@pytest.mark.parametrize(
    "template", ['{"predicted_gain": HERE}', '{"update": {"lr": [HERE]}}', '{"knobs": {"a": HERE}}']
)
def test_decision_file_of_a_command_is_refused_in_words(template: str, literal: str) -> None:
    with pytest.raises(UntrustedError, match=r"decision\.json is refused: \w+"):
        parse_object(template.replace("HERE", literal).encode(), "decision.json")


@pytest.mark.parametrize("literal", LITERALS, ids=lambda text: text[:9])
def test_recorded_decision_with_such_a_number_is_refused(tmp_path: Path, literal: str) -> None:
    data = content(entry(1))
    data["decisions"][0]["update"] = {"rank": "HERE"}
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps(data).replace('"HERE"', literal))
    with pytest.raises(PolicyError, match=r"holds no decisions: decisions\.0\.update\.rank") as refused:
        read_recording(path)
    assert refused.value.hint


@pytest.mark.parametrize("literal", ["Infinity", "NaN", "1e999", HUGE], ids=lambda text: text[:9])
def test_answer_of_a_harness_with_such_a_number_is_refused(literal: str) -> None:
    with pytest.raises(BadJsonError):
        parse_line(f'{{"id": 1, "path": "/sia/answer", "body": [{literal}]}}'.encode(), limit=10_000)


@pytest.mark.parametrize(
    "knob",
    [
        "value = inf\nrange = [0, inf]",
        "value = 1.0\nrange = [0, inf]",
        "value = inf\noptions = [inf, 1.0]",
        "value = nan\nrange = [nan, nan]",
    ],
)
def test_manifest_with_a_number_that_is_not_finite_is_refused(knob: str) -> None:
    text = f'name = "h"\n[knobs.tries]\n{knob}\n'
    with pytest.raises(HarnessError, match=r"harness\.toml"):
        Harness.from_files({"harness.toml": text.encode(), "agent.py": b""})


def test_manifest_with_an_infinite_budget_is_refused() -> None:
    text = b'name = "h"\n[budget]\nseconds = inf\n'
    with pytest.raises(HarnessError, match=r"budget\.seconds: inf is not a finite number"):
        Harness.from_files({"harness.toml": text, "agent.py": b""})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("inf"), "inf is not a finite number"),
        ({"a": [1, {"b": float("nan")}]}, "a.1.b: nan is not a finite number"),
        ({"a": 2**63}, "a: a number of more than 64 bits"),
        ({"a\ud800": 1}, "a name with half"),
        (["\udfff"], "0: a text with half"),
        ([[[]]], ""),
        ({"a": -1.5, "b": [True, None, "text", 2**62]}, ""),
    ],
)
def test_flaw_names_the_first_place_and_the_reason(value: Any, words: str) -> None:
    assert flaw(value).startswith(words) and bool(flaw(value)) == bool(words)


@pytest.mark.parametrize("text", ["[" * 100 + "]" * 100, "[" * 100_000])
def test_nesting_beyond_the_limit_is_refused(text: str) -> None:
    with pytest.raises(UnfitError, match="nested deeper than 64"):
        parse(text)


@pytest.mark.parametrize(
    "usage",
    ['{"prompt_tokens": -5, "completion_tokens": 1}', '{"prompt_tokens": 1e999}', f'{{"completion_tokens": {HUGE}}}'],
)
def test_impossible_token_counts_are_a_broken_answer(tmp_path: Path, usage: str) -> None:
    sent = json.dumps(submit() | {"usage": "HERE"}).replace('"HERE"', usage)
    with talking("openai", tmp_path) as talk:
        assert talk.decide(plain(sent.encode()), plain(submit())).lever == "harness"
        assert len(talk.bodies) > 1


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_missing_token_counts_are_none_at_all(tmp_path: Path, usage: Any) -> None:
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(submit() | {"usage": usage}))
        assert talk.records[0]["usage"]["requests"] == 1 and len(talk.bodies) == 1

"""The stored JSON of rollouts and amounts stays byte for byte, so that records of earlier versions can be read."""

import json
from dataclasses import replace

import pytest

from sia_core.domain.json_data import dumps, loads, read
from sia_core.domain.rollout import Failure, ProgramRun, Rollout, Sampling, ToolCall, Trace, Turn, Unit, Verdict
from sia_core.domain.usage import Usage

UNIT = Unit("task", "harness", "policy", None, "train", "p1", 7, Sampling(0.7, 64), "twin", '{"n": 1}')
CHOICE = Turn(
    *("choose", "Größe?", "b", "adapter", 1, (1, 2), (3, 4), (-0.5, 0), ((3, 5), None), "length", 0.25),
    tool_calls=(ToolCall("c1", "look", '{"at": 1}'),),
    prompt_tokens=2,
    output_tokens=2,
    options=("a", "b"),
)
FULL = Rollout(
    UNIT,
    (CHOICE, Turn("chat", "lone \ud83d", "", None, 1e-07)),
    {"code": "x\n", "n": [1, 2.0, None, True]},
    Verdict(1, metrics={"steps": 3, "mse": 1e16, "right": True}, feedback="é"),
    None,
    ("note",),
    1.5,
    0,
    Trace({"agent.py": (1, 2)}, ("n",)),
    (ProgramRun("print(1)", "ok", stdout="1\n"),),
)
FULL_JSON = (
    r'{"unit": {"task": "task", "harness": "harness", "policy": "policy", "adapter": null, "split": "train", '
    r'"problem": "p1", "seed": 7, "sampling": {"temperature": 0.7, "max_tokens": 64}, "twin": "twin", '
    r'"state": "{\"n\": 1}"}, "turns": [{"kind": "choose", "prompt": "Gr\u00f6\u00dfe?", "output": "b", '
    r'"adapter": "adapter", "temperature": 1, "prompt_ids": [1, 2], "output_ids": [3, 4], "logprobs": [-0.5, 0], '
    r'"allowed": [[3, 5], null], "finish": "length", "latency_s": 0.25, "tool_calls": [{"id": "c1", "name": "look", '
    r'"arguments": "{\"at\": 1}"}], "prompt_tokens": 2, "output_tokens": 2, "options": ["a", "b"]}, {"kind": "chat", '
    r'"prompt": "lone \ud83d", "output": "", "adapter": null, "temperature": 1e-07, "prompt_ids": null, '
    r'"output_ids": null, "logprobs": null, "allowed": null, "finish": "stop", "latency_s": 0.0, "tool_calls": [], '
    r'"prompt_tokens": 0, "output_tokens": 0, "options": null}], "answer": {"code": "x\n", "n": [1, 2.0, null, true]}, '
    r'"verdict": {"score": 1, "valid": true, "metrics": {"steps": 3, "mse": 1e+16, "right": true}, '
    r'"feedback": "\u00e9"}, "failure": null, "notes": ["note"], "seconds": 1.5, "verify_seconds": 0, '
    r'"trace": {"lines": {"agent.py": [1, 2]}, "knobs": ["n"]}, "programs": [{"code": "print(1)", "status": "ok", '
    r'"reason": "", "stdout": "1\n", "stderr": ""}]}'
)
FAILED = Rollout(replace(UNIT, twin=None, state=None), failure=Failure("timeout", "60 s"))
FAILED_JSON = (
    '{"unit": {"task": "task", "harness": "harness", "policy": "policy", "adapter": null, "split": "train", '
    '"problem": "p1", "seed": 7, "sampling": {"temperature": 0.7, "max_tokens": 64}, "twin": null, "state": null}, '
    '"turns": [], "answer": null, "verdict": null, "failure": {"kind": "timeout", "reason": "60 s"}, "notes": [], '
    '"seconds": 0.0, "verify_seconds": 0.0, "trace": null, "programs": []}'
)


@pytest.mark.parametrize(("rollout", "text"), [(FULL, FULL_JSON), (FAILED, FAILED_JSON)])
def test_rollout_is_written_and_read_back_byte_for_byte(rollout: Rollout, text: str) -> None:
    _ = rollout.unit.key  # Is kept in the object, and must not be written.
    assert dumps(rollout) == text
    back = loads(Rollout, text)
    assert back == rollout and back.unit.key == rollout.unit.key
    assert dumps(back) == text


def test_rollout_of_an_earlier_version_is_read() -> None:
    data = json.loads(FULL_JSON)
    for name in ("verify_seconds", "trace", "programs"):
        del data[name]
    for name in ("twin", "state"):
        del data["unit"][name]
    for name in ("tool_calls", "options", "prompt_tokens", "output_tokens"):
        del data["turns"][0][name]
    back = read(Rollout, data)
    assert (back.unit.twin, back.trace, back.programs, back.turns[0].options) == (None, None, (), None)
    assert back.turns[0].logprobs == (-0.5, 0)


def test_amounts_are_written_byte_for_byte() -> None:
    text = '{"rollouts": 2, "tokens": 30.0, "dollars": 0.5, "seconds": 0.0, "gpu_seconds": 1e-07}'
    assert dumps(Usage(2, 30.0, 0.5, gpu_seconds=1e-07)) == text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"seed": 7', '"seed": "many"', r"unit.seed\n.*valid integer"),
        ('"twin": "twin"', '"brother": "twin"', r"unit.brother\n.*Unexpected keyword"),
        ('"kind": "chat"', '"kind": "talk"', r"turns.1.kind\n.*'chat' or 'choose'"),
        ('"score": 1', '"score": Infinity', r"verdict\n.*score is inf: verdicts hold finite numbers"),
        ('"unit"', '"units"', r"unit\n.*required"),
        ('"turns"', "turns", "property name enclosed in double quotes"),
    ],
)
def test_malformed_rollout_is_refused_by_the_name_of_the_field(old: str, new: str, words: str) -> None:
    assert FULL_JSON.count(old) == 1
    with pytest.raises(ValueError, match=words):
        loads(Rollout, FULL_JSON.replace(old, new))


def test_infinite_logprobs_and_numbers_of_any_size_are_read() -> None:
    text = FULL_JSON.replace("[-0.5, 0]", "[-Infinity, NaN, 1e-320, 123456789012345678901234567890]")
    assert dumps(loads(Rollout, text)) == text

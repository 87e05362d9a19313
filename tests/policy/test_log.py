"""A log of replies stays byte for byte, so that logs of earlier versions replay."""

from pathlib import Path

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.policy.log import LoggedPolicy, ReplayPolicy
from sia_core.policy.protocol import Completion, Request

REQUEST = Request(({"role": "user", "content": "hi"},), Sampling(1.0, 8), 7)
REPLY = Completion(
    *("é", "user: hi", (1, 2), (3, 4), (-0.5, 0), ((3, 5), None), "tool_calls", (ToolCall("c1", "f", "{}"),), 2, 2, 1),
    blocks=({"depth": 1, "of": [1.0, None], "type": "thinking"},),
)
LINES = (
    '{"digest":"d","format":1,"policy":"own","trainable":true}\n'
    f'{{"completion":{{"allowed":[[3,5],null],"blocks":[{{"depth":1,"of":[1.0,null],"type":"thinking"}}],'
    '"cache_write_tokens":0,"cached_tokens":1,"finish":"tool_calls","logprobs":[-0.5,0],"output_ids":[3,4],'
    '"output_tokens":2,"prompt":"user: hi","prompt_ids":[1,2],"prompt_tokens":2,"text":"é",'
    f'"tool_calls":[{{"arguments":"{{}}","id":"c1","name":"f"}}]}},"request":"{REQUEST.key}"}}\n'
)


class Own:
    """A policy with one reply."""

    spec, digest, trainable, concurrency = "own", "d", True, 1

    def sample(self, request: Request) -> Completion:
        return REPLY

    def probe(self, adapter: object = None) -> tuple[float, ...]:
        return ()


def test_reply_is_logged_and_replayed_byte_for_byte(tmp_path: Path) -> None:
    log = tmp_path / "replies.jsonl"
    assert LoggedPolicy(Own(), log).sample(REQUEST) == REPLY
    assert log.read_text() == LINES
    replayed = ReplayPolicy("replay:x", log).sample(REQUEST)
    assert replayed == REPLY and repr(replayed) == repr(REPLY)


def test_reply_of_an_earlier_version_replays(tmp_path: Path) -> None:
    log = tmp_path / "replies.jsonl"
    blocks = LINES[LINES.index('"blocks"') : LINES.index('"cache_write_tokens"')]
    log.write_text(LINES.replace(blocks, ""))
    assert ReplayPolicy("replay:x", log).sample(REQUEST).blocks == ()


def test_reply_with_a_wrong_field_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "replies.jsonl"
    log.write_text(LINES.replace("[3,4]", '["many"]'))
    with pytest.raises(PolicyError, match="not a log of replies"):
        ReplayPolicy("replay:x", log)

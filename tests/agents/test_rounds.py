"""The log of a command's rounds stays byte for byte, so that an interrupted run of an earlier version resumes."""

import pytest

from sia_core.agents.command.desk import Handed
from sia_core.agents.command.mail import TryRequest
from sia_core.agents.command.rounds import Round, Tried
from sia_core.domain.jail import Ended
from sia_core.domain.json_data import dumps, loads

TAKEN = Round(
    Ended(0, None, "done é\n", "", 1.25), Handed({"agent.py": b"x\n", "data/raw": b"\xff\xfe>?"}, {"lever": "n"}), ""
)
TAKEN_JSON = (
    r'{"ended": {"code": 0, "killed_for": null, "stdout": "done \u00e9\n", "stderr": "", "seconds": 1.25}, '
    r'"handed": {"files": {"agent.py": "eAo=", "data/raw": "//4+Pw=="}, "decision": {"lever": "n"}}, "fault": ""}'
)
KILLED = Round(Ended(-9, "time", "", "lone \ud83d", 60.0), None, "ended by its limit")
KILLED_JSON = (
    r'{"ended": {"code": -9, "killed_for": "time", "stdout": "", "stderr": "lone \ud83d", "seconds": 60.0}, '
    r'"handed": null, "fault": "ended by its limit"}'
)


@pytest.mark.parametrize(("made", "text"), [(TAKEN, TAKEN_JSON), (KILLED, KILLED_JSON)])
def test_round_is_written_and_read_back_byte_for_byte(made: Round, text: str) -> None:
    assert dumps(made) == text
    assert loads(Round, text) == made


def test_trial_is_written_and_read_back_byte_for_byte() -> None:
    tried = Tried({"agent.py": b"\xff"}, TryRequest(folder="d", problems=["p"], rollouts=2))
    text = (
        '{"files": {"agent.py": "/w=="}, "request": {"folder": "d", "problems": ["p"], "rollouts": 2, "parent": null}}'
    )
    assert dumps(tried) == text and loads(Tried, text) == tried

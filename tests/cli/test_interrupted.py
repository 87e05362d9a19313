"""Ctrl-C and SIGTERM are answered, whatever a verb is doing."""

import pytest
from typer.testing import CliRunner

from sia_core.cli.main import app
from sia_core.errors import INTERRUPTED


def test_a_verb_that_is_interrupted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sia_core.doctor.examine.examine", interrupted)
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, done.stderr) == (INTERRUPTED, "sia: interrupted\n")

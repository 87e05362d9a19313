"""Ctrl-C and SIGTERM are answered, whatever a verb is doing."""

import signal
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from sia_core.cli import main
from sia_core.errors import INTERRUPTED


def test_a_verb_that_is_interrupted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sia_core.doctor.examine.examine", interrupted)
    done = CliRunner().invoke(main.app, ["doctor"])
    assert (done.exit_code, done.stderr) == (INTERRUPTED, "sia: interrupted\n")


@pytest.mark.parametrize("asked", [False, True])
def test_what_a_library_makes_of_an_interrupt_is_one(
    asked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        with suppress(KeyboardInterrupt):
            if asked:
                signal.raise_signal(signal.SIGINT)
        raise ValueError("Error building a validator")

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(SystemExit if asked else ValueError) as ended:
        main.main()
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == INTERRUPTED and capsys.readouterr().err == "sia: interrupted\n"

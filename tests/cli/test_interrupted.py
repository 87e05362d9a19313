"""Ctrl-C and SIGTERM end every command with a message."""

import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from sia_core.cli import main
from sia_core.domain.errors import INTERRUPTED


def test_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sia_core.doctor.examine.examine", interrupted)
    done = CliRunner().invoke(main.app, ["doctor"])
    assert (done.exit_code, done.stderr) == (INTERRUPTED, "sia: interrupted\n")


@pytest.mark.parametrize("asked", [False, True])
def test_library_error_after_an_interrupt_counts_as_the_interrupt(
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


@pytest.mark.parametrize(("code", "returned"), [(0, 0), (None, 0), (130, 130), ("what went wrong", 1)])
def test_command_ends_at_once_while_ray_starts(code: object, returned: int) -> None:
    script = f"""
import atexit, sys
from sia_core.cli.warm_start import end
from sia_core.engine import cluster
atexit.register(print, "as usual")
if "up" not in sys.argv:
    cluster._early.append(cluster.Future())
print("said")
end({code!r})
"""
    for up in (["up"], []):
        done = subprocess.run([sys.executable, "-c", script, *up], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (returned, "said\nas usual\n" if up else "said\n"), done.stderr

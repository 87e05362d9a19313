"""`sia --version`."""

from importlib.metadata import version

from typer.testing import CliRunner

from sia_core.cli.main import app


def test_version_option_prints_the_version_of_the_package() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"sia {version('sia')}\n")


def test_help_text_states_the_purpose() -> None:
    done = CliRunner().invoke(app, [])
    assert "two levers" in done.output and "--version" in done.output

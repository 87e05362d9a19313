"""Define the `sia` command, with one verb per file. A verb loads the heavy libraries that it needs."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sia_core.cli.adopt import adopt
from sia_core.cli.approve import approve
from sia_core.cli.arms import arms
from sia_core.cli.check import check
from sia_core.cli.compare import compare
from sia_core.cli.data import data
from sia_core.cli.deploy import deploy
from sia_core.cli.doctor import doctor
from sia_core.cli.evaluate import evaluate
from sia_core.cli.export import export
from sia_core.cli.init import init
from sia_core.cli.plain import plain_lines
from sia_core.cli.report import report
from sia_core.cli.resume import resume
from sia_core.cli.retry import retry
from sia_core.cli.run import run
from sia_core.cli.serve import serve
from sia_core.cli.status import status
from sia_core.cli.task import task
from sia_core.cli.ui import ui
from sia_core.cli.warm_start import end
from sia_core.cli.watch import watch
from sia_core.cli.worker import worker
from sia_core.domain.errors import INTERRUPTED, SiaError
from sia_core.host.machine.process import prepare
from sia_core.host.signals import asked_to_end, listening

EXIT_CODES = """\
Exit codes: 0 done · 1 unexpected · 2 usage · 3 task · 4 harness · 5 policy or model · 6 sandbox ·
7 run or record · 8 service or port · 9 fetching · 10 private data leaked · 11 budget used up (the run can be resumed) ·
130 interrupted (the run can be resumed)
"""


def _say_interrupted() -> int:
    print("sia: interrupted", file=sys.stderr)
    return INTERRUPTED


class _Group(TyperGroup):
    """Group that reports an interrupt; Typer would end without a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(_say_interrupted())


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Improve a task agent by two levers: its harness and its weights.",
    epilog=EXIT_CODES,
)
for verb in (
    *(run, arms, resume, retry, approve, status, watch, report, compare, ui),
    *(check, init, export, adopt, serve, doctor, deploy, worker),
):
    app.command()(verb)
app.command("eval")(evaluate)
for name, verbs in {"data": data, "task": task}.items():
    app.add_typer(verbs, name=name)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sia {version('sia')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command, and print errors that you can act on without a traceback."""
    prepare()
    code: object = 0
    with listening():
        try:
            app()
        except SystemExit as ended:
            code = ended.code
        except SiaError as error:
            print(f"sia: {plain_lines(str(error))}", file=sys.stderr)
            code = error.exit_code
        except Exception:
            if not asked_to_end():  # Libraries turn the exception of a signal into other errors.
                raise
            code = _say_interrupted()
    end(code)


if __name__ == "__main__":
    main()

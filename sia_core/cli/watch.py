"""`sia watch RUN`: follow a run from another terminal or machine, from the record alone."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sia_core.report.pulse import Pulse


def watch(
    run: Annotated[str, typer.Argument(help="Name of a run, its beginning, its task, or latest; see sia status.")],
    once: Annotated[bool, typer.Option("--once", help="Look once and end, for a pipe.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
) -> None:
    """Show the state of RUN until it ends."""
    from rich.live import Live

    from sia_core.cli.show import console
    from sia_core.domain.errors import RecordError
    from sia_core.loop.create_run import record
    from sia_core.report.pulse import Watcher

    watcher = Watcher(record().open(run))
    pulse = watcher.look()
    if once or not console.is_terminal:
        console.print(draw(pulse))
    if once:
        return
    if console.is_terminal:
        with Live(draw(pulse), console=console, auto_refresh=False) as live:
            while not pulse.ended:
                pulse = watcher.look_again(every)
                live.update(draw(pulse), refresh=True)
    else:
        while not pulse.ended:  # In a pipe or a log: a line for each change.
            before, pulse = pulse, watcher.look_again(every)
            if _place(pulse) != _place(before):
                console.print(headline(pulse), soft_wrap=True)
    if pulse.status != "FINISHED":
        raise RecordError(f"has ended as {pulse.status}", where=pulse.name, hint=f"resume it: sia resume {pulse.name}")


def _place(pulse: "Pulse") -> tuple[object, ...]:
    """Return the parts of the headline that do not change with time alone."""
    step = pulse.progress
    wait = None if step is None or step.wait is None else (step.wait.label, step.wait.turn, step.wait.began)
    at = None if step is None else (step.label, step.done, step.total)
    return pulse.status, pulse.generation, pulse.phase, pulse.lost, wait or at


def headline(pulse: "Pulse") -> str:
    """Summarise the run's state in a line of rich's markup."""
    from sia_core.cli.plain import plain

    total = pulse.config.generations
    if pulse.ended:
        return f"{pulse.name}: {pulse.status.lower()}, {pulse.generation} of {total} generations begun"
    said = f"{pulse.name}: running, generation {pulse.generation} of {total}, {pulse.phase}"
    if pulse.lost and pulse.silent_s is not None:
        return f"{said}; no update for {pulse.silent_s:.0f} s: it may have been killed (sia resume {pulse.name})"
    step = pulse.progress
    if step is not None and step.wait is not None:
        return f"{said}; {plain(step.wait.describe(step.at + (pulse.silent_s or 0.0)))}"
    if step is None or not step.total:
        return said
    return f"{said}; {plain(step.label)}: {step.done} of {step.total}"


def draw(pulse: "Pulse") -> "RenderableType":
    """Render a look at a run for the terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar

    from sia_core.cli.plain import plain
    from sia_core.cli.show import console, lineage_table
    from sia_core.report.decided import stand_in_lines
    from sia_core.report.table import sealed_lines, spent_lines

    parts: list[RenderableType] = [headline(pulse)]
    step = pulse.progress
    if step is not None and step.total and step.wait is None and not pulse.ended and not pulse.lost:
        parts.append(ProgressBar(total=step.total, completed=step.done, width=60))
    if pulse.nodes:
        parts.append(lineage_table(pulse.nodes, console.width))
    if pulse.stop is not None:
        parts.append(f"ended by rule {plain(pulse.stop.rule)}: {plain(pulse.stop.reason)}")
    if pulse.test is not None:
        parts += sealed_lines(pulse.test, pulse.config.confidence)
    if pulse.spending is not None:
        parts += spent_lines(pulse.spending, pulse.budget)
    parts += map(plain, stand_in_lines(pulse.nodes))
    return Group(*parts)

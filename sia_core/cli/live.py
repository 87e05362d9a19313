"""Draw progress bars in a terminal; elsewhere print a line for each finished step."""

import time
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from sia_core.cli.plain import plain
from sia_core.host.progress import Wait


class _Bars(Progress):
    """Bars, and below them the wait for a model's reply, with a running clock."""

    wait: Wait | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield everything to draw."""
        yield from super().get_renderables()
        wait = self.wait
        if wait is not None:
            yield Text(wait.describe(time.time()))


class Live:
    """A Reporter that draws progress. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = _Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not _draws(console),
        )
        self._turn: tuple[str, int, float] | None = None
        """Last turn whose line was printed."""
        self._steps: dict[str, tuple[TaskID, float]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, label: str, done: int, total: int) -> None:
        """Draw or redraw a step."""
        if label not in self._steps:
            self._steps[label] = self._progress.add_task(plain(label), total=total), time.monotonic()
        step, started = self._steps[label]
        self._progress.update(step, completed=done, total=total)
        if done >= total:
            del self._steps[label]
            self._progress.remove_task(step)
            self.say(f"{label}: {total} in {time.monotonic() - started:.1f} s")

    def waiting(self, wait: Wait | None) -> None:
        """Draw the wait for a reply; if nothing can be redrawn, print a line when a turn begins."""
        if not self._progress.disable:
            self._progress.wait = wait
            return
        turn = None if wait is None else (wait.label, wait.turn, wait.began)
        if wait is not None and turn != self._turn:
            self._turn = turn
            self.say(wait.describe(time.time()))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(plain(text), emoji=False)  # `openai:m: ...` contains an emoji code.


def _draws(console: Console) -> bool:
    """Return True if bars can be redrawn: in a terminal, or in a notebook with ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)

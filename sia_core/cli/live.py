"""Progress bars in a terminal; plain lines, one a finished step, where there is none."""

import time
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sia_core.cli.plain import plain


class Live:
    """A Reporter that draws. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not _draws(console),
        )
        self._steps: dict[str, tuple[TaskID, float]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(plain(text))


def _draws(console: Console) -> bool:
    """Whether bars can be drawn over: in a terminal, and in a notebook that has ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)

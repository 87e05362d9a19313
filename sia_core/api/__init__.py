"""Run the loop from Python: `from sia_core import Task, evolve`. See docs/python.md."""

from sia_core.api.result import Result, Step
from sia_core.api.run import evolve, load_result
from sia_core.api.task import Task

__all__ = ["Result", "Step", "Task", "evolve", "load_result"]

"""Run an external command, such as a coding tool, with access to its own directory and little else.

A jail is less strict than a sandbox: the command may start processes, use much memory and, if allowed, a few hosts. So
harnesses and programs never run in a jail, and the command's results are checked like any other submission of an agent.
"""

from sia_core.engine.jail.run import BubbleJail
from sia_core.engine.jail.tool import Tool, find_tool

__all__ = ["BubbleJail", "Tool", "find_tool"]

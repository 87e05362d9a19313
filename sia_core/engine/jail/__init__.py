"""Runs a command that is not ours, such as a coding tool, where it sees its own directory and little else.

A jail is wider than a sandbox: the command may start processes, use much memory and, if allowed, a few hosts. So it
is never used for harnesses and programs; and what comes out of it is checked as anything else an agent submits.
"""

from sia_core.engine.jail.run import BubbleJail
from sia_core.engine.jail.tool import Tool, find_tool

__all__ = ["BubbleJail", "Tool", "find_tool"]

"""Agents that are a command of yours: a coding tool, started in a directory with everything that an agent reads.

The command edits a copy of the harness and writes `decision.json`; the difference is the patch. See `docs/agents.md`.
"""

"""Feedback-Agents by spec."""

from sia_core.agents.protocol import FeedbackAgent
from sia_core.agents.rules import RulesAgent
from sia_core.errors import UsageError


def load_agent(spec: str) -> FeedbackAgent:
    """The agent behind a spec.

    Raises:
        UsageError: unknown spec.
    """
    if spec == "rules":
        return RulesAgent()
    raise UsageError(
        f"unknown agent {spec!r}", where="--agent", hint="use rules (no language model); model-driven agents come later"
    )

"""`alternate`: the levers in turn, without regard to the evidence. The control that any choice of levers must beat."""

from dataclasses import replace

from sia_core.agents.protocol import Situation
from sia_core.agents.rules import RulesAgent
from sia_core.agents.source import Source
from sia_core.domain.lineage import Decision


class AlternateAgent:
    """The agent behind spec `alternate`: `rules`, held to the lever whose turn it is."""

    spec = "alternate"

    def __init__(self) -> None:
        self._rules = RulesAgent()

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Pull the lever whose turn it is, or the next one that can be pulled; `stop` where none can."""
        turn = (situation.generation - 1) % len(situation.levers)
        for lever in (*situation.levers[turn:], *situation.levers[:turn]):
            decision = self._rules.decide(replace(situation, levers=(lever,)), source)
            if decision.lever != "stop":
                break
        return replace(decision, agent=self.spec)

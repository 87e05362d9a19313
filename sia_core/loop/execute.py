"""Execute phase: roll the candidate to improve out over training problems.

Each phase first asks the record whether it is complete, and then does nothing. Otherwise it works from the results of
earlier phases and is marked complete last, so that a killed process loses at most the rollouts in flight.
"""

from sia_core.domain.replies import count_replies, reply_lines
from sia_core.loop.rollouts import (
    cost_of,
    execute_shape,
    plan_groups,
    require_scored,
    roll_out,
    training_rollouts,
    unverified_line,
)
from sia_core.loop.session import Session
from sia_core.record.phases import ExecuteDone
from sia_core.search.lineage import parent_policy


def execute(session: Session, index: int) -> None:
    """Roll the node that the parent policy proposes out over a block of training problems."""
    generation = session.run.generation(index)
    if generation.phase(ExecuteDone) is not None:
        return
    config, nodes = session.config, session.run.nodes()
    choice = parent_policy(config.parent)(nodes, config.confidence)
    node = nodes[choice.node]
    earlier = training_rollouts(session, index) if config.reuse_states else []
    shape = execute_shape(session, node)
    if shape.reason:
        session.reporter.say(f"generation {index}: {shape.reason}")
    units = plan_groups(session, node.candidate, index - 1, f"{index}/execute", earlier, shape)
    label = f"generation {index}: execute"
    rollouts = roll_out(session, node.candidate, units, label, executes=True)
    require_scored(session, rollouts, label)
    generation.put_rollouts("train", rollouts)
    if line := unverified_line(session, rollouts, label):
        session.reporter.say(line)
    replies = count_replies(rollouts)
    if index == 1 and replies.notable:
        for line in reply_lines(replies, f"generation {index}"):
            session.reporter.say(line)
    generation.complete(ExecuteDone(node=node.index, why=choice.reason, cost=cost_of(rollouts), shape=shape))

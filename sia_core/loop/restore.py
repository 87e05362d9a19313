"""Restore this machine's journal from the record of a run that comes from another machine."""

from sia_core.loop.spending import Ledger
from sia_core.record.journal import Journal
from sia_core.record.phases import ImproveDone
from sia_core.record.refill import refill
from sia_core.record.store import RunRecord


def restore(run: RunRecord, ledger: Ledger, journal: Journal, siblings: int) -> int:
    """Put the recorded rollouts of unfinished generations into the journal, with their cost; return how many are new.

    Rollouts of an interrupted phase are not in the record and are repeated. An empty journal also receives the rollouts
    of all other generations, whose cost is already in the record.
    """
    empty = not len(journal)
    unfinished = [generation for generation in run.generations() if generation.phase(ImproveDone) is None]
    parts = [generation.sibling(number) for generation in unfinished for number in range(siblings)]
    rollouts = [rollout for part in parts for name in part.rollout_sets() for rollout in part.own_rollouts(name)]
    new = sum(ledger.settle(rollout) for rollout in rollouts)
    if empty:
        refill(run, journal)
    return new

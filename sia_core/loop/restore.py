"""A run that comes from another machine: what its record knows and this machine's journal does not."""

from sia_core.loop.spending import Ledger
from sia_core.record.journal import Journal
from sia_core.record.phases import ImproveDone
from sia_core.record.refill import refill
from sia_core.record.store import RunRecord


def restore(run: RunRecord, ledger: Ledger, journal: Journal, siblings: int) -> int:
    """Put the recorded rollouts of unfinished generations into the journal, with what they cost; how many were new.

    Those of a phase that was cut short are in no record yet, and are played again. A journal that was empty gets
    those of all other generations too, whose cost the record has.
    """
    empty = not len(journal)
    unfinished = [generation for generation in run.generations() if generation.phase(ImproveDone) is None]
    parts = [generation.sibling(number) for generation in unfinished for number in range(siblings)]
    rollouts = [rollout for part in parts for name in part.rollout_sets() for rollout in part.own_rollouts(name)]
    new = sum(ledger.settle(rollout) for rollout in rollouts)
    if empty:
        refill(run, journal)
    return new

"""A journal that lacks what MLflow has: a run that came from another machine."""

from pathlib import Path

from sia_core.loop.session import restore
from sia_core.record.phases import ImproveDone
from sia_core.record.store import open_record
from tests.factories import make_rollout
from tests.loop.test_spending import Kept, opened
from tests.record.test_record import CONFIG


def test_rollouts_of_unfinished_generations_come_back_once(tmp_path: Path) -> None:
    run = open_record(tmp_path / "home", None).create(CONFIG, {"sia.task": "toy", "sia.task_digest": "d"})
    done, open_one = run.generation(1), run.generation(2)
    done.put_rollouts("train", [make_rollout(seed=1)])
    done.complete(ImproveDone(nodes=()))
    open_one.put_rollouts("train", [make_rollout(seed=2), make_rollout(seed=3)])
    open_one.put_rollouts("round_1", [make_rollout(seed=4)])
    open_one.sibling(1).put_rollouts("gate_child", [make_rollout(seed=5)])

    with opened(tmp_path / "j.db", Kept("")) as ledger:
        ledger.settle(make_rollout(seed=2))
        assert restore(run, ledger, ledger._journal, siblings=2) == 3
        assert ledger.spent()["rollouts"].rollouts == 4, "what came back is counted, and once"
        assert restore(run, ledger, ledger._journal, siblings=2) == 0
    with opened(tmp_path / "other.db", Kept("")) as ledger:
        assert restore(run, ledger, ledger._journal, siblings=1) == 3

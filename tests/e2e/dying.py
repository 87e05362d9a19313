"""`sia ...` that is killed just after its N-th write to MLflow: python -m tests.e2e.dying N FILE ARGUMENTS...

With N 0 the command is not killed. FILE lists the names of the writes so far, a line each. Writes by the clock
(the beat of the lease, the current step) are not counted.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final, cast
from unittest.mock import patch

from mlflow.tracking import MlflowClient

from sia_core.cli.main import main
from sia_core.record import connection
from sia_core.record.patience import Waiting, patient

_READS: Final = ("get_", "search_", "list_", "download_", "start_trace", "start_span", "end_span", "end_trace")


class _Dying:
    """MLflow's client in a process that will not see the end of a write."""

    left = 0
    file = Path()

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or name.startswith(_READS):
            return found

        def write(*words: Any, **more: Any) -> Any:
            answer = found(*words, **more)
            if threading.current_thread().name not in ("lease", "beacon"):
                self._count(name)
            return answer

        return write

    def _count(self, name: str) -> None:
        with self.file.open("a") as out:
            out.write(f"{name}\n")
        _Dying.left -= 1
        if _Dying.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _dying(client: MlflowClient, waiting: Waiting) -> MlflowClient:
    return patient(cast("MlflowClient", _Dying(client)), waiting)


if __name__ == "__main__":
    _Dying.left, _Dying.file = int(sys.argv[1]), Path(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    with patch.object(connection, "patient", _dying):
        main()

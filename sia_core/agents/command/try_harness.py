"""Plays a draft of a harness on training problems, beside its parent, and prints what came of it.

    ./try_harness                          the directory harness/, on problems that were executed
    ./try_harness --folder drafts/mine     another directory here
    ./try_harness --problems a,b --rollouts 2 --parent 1

It costs rollouts of an allowance, which each answer tells. Drafts that cannot run cost nothing and come back with
their faults.
"""

import argparse
import json
import os
import sys
import time
import uuid
from pathlib import Path

HERE = Path(os.environ["SIA_WORK"])


def main() -> int:
    given = arguments()
    token = uuid.uuid4().hex
    request = {
        "folder": given.folder,
        "problems": [name for name in given.problems.split(",") if name],
        "rollouts": given.rollouts,
        "parent": given.parent,
    }
    draft = HERE / "requests" / f"{token}.part"
    draft.write_text(json.dumps(request))
    draft.rename(draft.with_suffix(".json"))
    answer = Path(os.environ["SIA_REPLIES"]) / f"{token}.json"
    while not answer.exists():
        time.sleep(0.1)
    reply = json.loads(answer.read_text())
    print(reply["text"])
    return 0 if reply["played"] else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="harness")
    parser.add_argument("--problems", default="", help="ids, with commas between them")
    parser.add_argument("--rollouts", type=int, default=1, help="of each problem")
    parser.add_argument("--parent", type=int, default=None, help="node to compare with; left out, the executed one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

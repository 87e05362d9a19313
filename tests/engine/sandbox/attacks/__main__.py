"""Run the attacks of a mode as the current user. Print their results and the leftovers as JSON."""

import json
import os
import sys
import time
from typing import cast

from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.protocol import Tier
from tests.engine.sandbox.attacks.attack import Mode
from tests.engine.sandbox.attacks.scene import scene
from tests.engine.sandbox.attacks.suite import attacks_for, outcomes

_SETTLE_S = 1.0


def main(mode: Mode, only: str = "") -> dict[str, object]:
    """Open a sandbox and run every attack in the sandbox."""
    tier = cast("Tier", mode.partition("+")[0])
    chosen = [attack for attack in attacks_for(mode) if only in attack.name]
    with scene() as names:
        sandbox = open_sandbox(tier, modules=())
        before = tree.below(os.getpid(), tree.tasks())
        found = {}
        began = time.monotonic()
        for name, ended in outcomes(sandbox, open_sandbox("none"), mode, names, chosen):
            found[name] = ended
            if only:
                print(f"{time.monotonic() - began:6.2f} {name}: {ended}", file=sys.stderr)
        time.sleep(_SETTLE_S)
        left = tree.below(os.getpid(), tree.tasks()) - before
        sandbox.close()
    return {"uid": os.getuid(), "outcomes": found, "left": sorted(left)}


if __name__ == "__main__":
    print(json.dumps(main(cast("Mode", sys.argv[1]), *sys.argv[2:])))

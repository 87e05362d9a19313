"""Secret that makes the data of this installation its own.

The project's source is public, and data that follow from it alone could be known beforehand: a program could
compute results before it is asked. So every seed also depends on 32 random bytes, drawn once and kept below SIA_HOME,
where no program in a confining sandbox can read them.
"""

import os
import secrets
import tempfile
from pathlib import Path

from sia_core.host.home import home


def secret() -> str:
    """64 hexadecimal digits: the same for every process with this SIA_HOME, drawn by the first that asks."""
    path = home() / "data" / "trimul" / "secret"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(name, path)  # whole or not at all, and never over another's
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
    return path.read_text()

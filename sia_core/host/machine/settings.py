"""Settings of Prefect that you have made for other uses: in variables, profiles and files of the current directory.

With a Prefect that SIA runs itself, your profiles, logins and settings of servers do not apply. With a Prefect that
PREFECT_API_URL names, all of them do. Prefect ends with a traceback where it cannot read one, so they are tried in a
process of their own, and only if there are any.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from sia_core.domain.errors import ServiceError
from sia_core.host.external import prefect_server
from sia_core.host.library_env import SETTINGS
from sia_core.host.machine.condition import Condition

_TRY: Final = "import prefect.settings as settings; settings.get_current_settings(); import prefect.client"
_TIMEOUT_S: Final = 60
_OURS: Final = {*SETTINGS, "PREFECT_API_URL", "PREFECT_CLIENT_MAX_RETRIES", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"}
_FOR_SERVERS: Final = ("PREFECT_SERVER_", "PREFECT_UI_", "PREFECT_API_DATABASE_")
_LOGINS: Final = ("PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS")
_FILES: Final = {"prefect.toml": "", ".env": "PREFECT_", "pyproject.toml": "[tool.prefect"}
"""Files of the current directory that Prefect reads, and the text that its settings begin with."""


def leave_out(home: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep your profiles and logins from Prefect's client, for SIA's own server under `home`. Idempotent."""
    for name in [name for name in environment if name in _LOGINS or name.startswith(_FOR_SERVERS)]:
        if name not in SETTINGS:
            del environment[name]
    environment["PREFECT_HOME"] = str(home / "prefect")
    environment["PREFECT_PROFILES_PATH"] = str(home / "prefect" / "profiles.toml")


def check_settings(environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> Condition:
    """Check that Prefect can read its settings.

    Raises:
        ServiceError: it cannot; names the variable or file.
    """
    folder = folder or Path.cwd()
    used = dict(environment)
    if prefect_server(environment) is None:
        leave_out(folder / "nowhere", used)
        for name in ("PREFECT_HOME", "PREFECT_PROFILES_PATH"):  # A directory of its own, which need not exist yet.
            del used[name]
    names = [name for name in used if name.startswith("PREFECT_") and name not in _OURS]
    files = [folder / name for name, text in _FILES.items() if _holds(folder / name, text)]
    if not names and not files:
        return Condition("Prefect's own defaults")
    if not _readable(used, folder):
        plain = {name: value for name, value in used.items() if name not in names}
        wrong = [name for name in names if not _readable({**plain, name: used[name]}, Path(os.sep))]
        where = ", ".join(wrong) or ", ".join(map(str, files)) or ", ".join(names)
        hint = f"unset {' '.join(wrong)}" if wrong else "correct it, or start in another directory"
        raise ServiceError("Prefect cannot read this setting", where=where, hint=hint)
    return Condition(f"Prefect reads {', '.join([*sorted(names), *(file.name for file in files)])}")


def _holds(file: Path, text: str) -> bool:
    try:
        return text in file.read_text(errors="replace")
    except OSError:
        return False


def _readable(environment: Mapping[str, str], folder: Path) -> bool:
    try:
        words = [sys.executable, "-P", "-c", _TRY]
        done = subprocess.run(
            words, env=dict(environment), cwd=folder, capture_output=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return True  # A slow machine is no wrong setting.
    return done.returncode == 0

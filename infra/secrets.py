"""Write `.env` with a fresh secret for every variable that docker-compose.yml demands: `python3 infra/secrets.py`.

Standard library only. What `.env` has already is kept: changing a database's password takes more than a file.
"""

import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_DEMANDED = re.compile(r"\$\{(SIA_[A-Z0-9_]+):\?")


def demanded(compose: str) -> list[str]:
    """Names of the variables without which the file cannot be used."""
    return sorted(set(_DEMANDED.findall(compose)))


def complete(kept: str, names: list[str]) -> str:
    """The text of an `.env` with what it had and a secret for each name that it lacked.

    Hexadecimal, since they stand in URLs; 256 bits.
    """
    there = {line.partition("=")[0].strip() for line in kept.splitlines()}
    fresh = [f"{name}={secrets.token_hex(32)}\n" for name in names if name not in there]
    return kept + ("" if not kept or kept.endswith("\n") else "\n") + "".join(fresh)


def main() -> int:
    """Complete the file, readable by its owner only."""
    target = ROOT / ".env"
    kept = target.read_text() if target.exists() else ""
    text = complete(kept, demanded((ROOT / "docker-compose.yml").read_text()))
    part = target.with_name(".env.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(target)
    print(f"{target}: {len(text.splitlines()) - len(kept.splitlines())} secrets written")
    return 0


if __name__ == "__main__":
    sys.exit(main())

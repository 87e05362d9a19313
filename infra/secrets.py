"""Write `.env` with a fresh secret for every variable that docker-compose.yml demands: `python3 infra/secrets.py`.

Standard library only. Existing entries of `.env` are kept: a changed password would have to change in the database too.
"""

import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_DEMANDED = re.compile(r"\$\{(SIA_[A-Z0-9_]+):\?")


def demanded(compose: str) -> list[str]:
    """List the variables that the file requires."""
    return sorted(set(_DEMANDED.findall(compose)))


def complete(kept: str, names: list[str]) -> str:
    """Return the text of an `.env` with its entries and a secret for each missing name.

    Secrets are 256 bits in hexadecimal, because they stand in URLs.
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

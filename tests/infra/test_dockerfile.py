"""infra/Dockerfile, as far as it can be judged without building it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "infra" / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


def test_copied_files_exist_and_are_not_ignored() -> None:
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE) for name in line.split()]
    assert "constraints.txt" in copied and "flows" in copied
    assert IGNORED[0] == "*", "nothing goes into the image by accident: no .env, no .git"
    for name in copied:
        optional = "[" in name
        assert optional or (ROOT / name).exists()
        assert f"!{name.replace('[l]', 'l')}" in IGNORED


def test_extras_of_the_image_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"\.\[([\w,]+)\$\{GPU:\+,(\w+)\}\]", TEXT)
    assert {*named[0].split(","), named[1]} <= set(known)
    assert {"train", "servers"} <= {*named[0].split(",")}


def test_image_has_an_unprivileged_user_and_pinned_versions() -> None:
    assert re.findall(r"^FROM \S+:(\S+)$", TEXT, re.MULTILINE) == ["3.11-slim-bookworm"]
    assert re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE)[-1] == "10001:10001"
    assert "-c constraints.txt" in TEXT


def test_sandbox_is_in_the_image() -> None:
    assert "bubblewrap" in TEXT and "libseccomp2" in TEXT
    assert "procps" in TEXT, "docker-compose.yml's health checks use pgrep"

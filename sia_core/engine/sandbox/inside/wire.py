"""The bytes of a request: a header, then blobs in the header's order.

The supervisor writes a request into a memory file, and the forked process reads it before confining itself. The
header is in `marshal` format, which touches far fewer of the pages shared by a fork than JSON. Both ends are the
same interpreter, and only the trusted supervisor writes `marshal`.
"""

import marshal
import struct
from collections.abc import Iterable, Mapping
from typing import Any

Header = dict[str, Any]
_LENGTH = struct.Struct("!I")


def header(fields: Mapping[str, Any], sizes: Iterable[tuple[str, int]] = ()) -> bytes:
    """Encode `fields`, and the (name, size) of every blob that follows."""
    head = marshal.dumps({**fields, "files": list(sizes)})
    return _LENGTH.pack(len(head)) + head


def decode(data: bytes | bytearray) -> tuple[Header, dict[str, bytes]]:
    """Split one message into its header and its blobs. Raises ValueError if the message is incomplete."""
    if len(data) < _LENGTH.size:
        raise ValueError("message without a header")
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    fields: Header = marshal.loads(data[_LENGTH.size : start])
    blobs: dict[str, bytes] = {}
    for name, size in fields.pop("files"):
        blobs[name] = bytes(data[start : start + size])
        start += size
    if start != len(data):
        raise ValueError("message of the wrong length")
    return fields, blobs

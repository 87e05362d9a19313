"""Read text files of tasks and harnesses as every editor writes them: UTF-8 with LF line ends and no byte order mark.

Files from Windows and old Macs have other line ends or a mark, which change no meaning, but break TOML and the blocks
of an edit. They are normalised when a file is read. Another encoding than UTF-8 is never guessed: the error names it.
"""

import codecs
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BOM = "\ufeff"
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # Begins as UTF-16's mark does.
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
SAVE_AS_UTF8 = "save the file as UTF-8"


class EncodingError(ValueError):
    """A file's bytes are not UTF-8; the message says where, and what they may be."""


class TomlError(ValueError):
    """A text is not TOML; the message says where and why."""


def normalised_text(text: str) -> str:
    """Return the text without a byte order mark, with LF line ends."""
    return text.removeprefix(BOM).replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes) -> str:
    """Return the normalised text of a file's bytes.

    Raises:
        EncodingError: the bytes are not UTF-8.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise EncodingError(f"is {name}, not UTF-8")
    try:
        return normalised_text(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8: line {line} holds the byte 0x{data[error.start]:02x} (perhaps Latin-1 or Windows-1252)"
        raise EncodingError(what) from None


def read(file: Path) -> str:
    """Return the normalised text of a file.

    Raises:
        EncodingError: the file is not UTF-8.
    """
    return decode(file.read_bytes())


def read_toml(data: bytes) -> dict[str, Any]:
    """Return the table of a TOML file's bytes.

    Raises:
        EncodingError: the bytes are not UTF-8.
        TomlError: the text is not TOML, or nested too deeply to be read.
    """
    try:
        return tomllib.loads(decode(data))
    except EncodingError:
        raise
    except ValueError as error:  # Not only of tomllib: a number of 5,000 digits is one of Python's own.
        raise TomlError(f"is not TOML: {error}") from None
    except RecursionError:
        raise TomlError("is not TOML that can be read: it is nested too deeply") from None


def normalised(data: bytes) -> bytes:
    """Return the bytes of the normalised text; binary data (no UTF-8, or with a NUL byte) stay as they are."""
    if b"\0" in data or not (b"\r" in data or data.startswith(codecs.BOM_UTF8)):
        return data
    try:
        return decode(data).encode()
    except EncodingError:
        return data


def normalised_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files with every text normalised."""
    return {name: normalised(data) for name, data in files.items()}

"""JSON schemas from pinned wheels, which are neither copied into the project nor installed."""

import json
import zipfile
from functools import cache
from typing import Any

import pytest

from sia_core.domain.errors import FetchError
from sia_core.host.downloads import Wheel, fetch_wheel

COMPOSE = Wheel(
    project="check-jsonschema",
    version="0.39.0",
    sha256="14ce5c94871c551268ea948ffe21e9f1464dc48fb20bf9a4c13deeaaf756cf9b",
    size=485805,
)
KUBERNETES = Wheel(
    project="kubernetes-validate",
    version="1.37.0",
    sha256="85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9",
    size=22560767,
)


@cache
def read(wheel: Wheel, member: str) -> Any:
    """A JSON file of a wheel; skips without the package index."""
    try:
        path = fetch_wheel(wheel)
    except FetchError as error:
        pytest.skip(f"the schema cannot be fetched: {error.what}")
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(member))

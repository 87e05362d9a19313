"""Fixtures for the tests of borders."""

import pytest


@pytest.fixture(autouse=True)
def _own_opener(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let urllib read each test's proxies: it keeps the ones of its first request in a process."""
    monkeypatch.setattr("urllib.request._opener", None)

"""LoRA adapters on a vLLM server: loaded before use, bounded in number, never confused.

A name always means one set of weights, because the name contains the adapter's digest and its path. (vLLM keys its
prefix cache by name, and reads a dropped adapter again from its path.) An adapter in use by a request is not
unloaded.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sia_core.domain.candidate import Adapter
from sia_core.domain.hashing import digest_bytes

ADAPTERS_KEPT: Final = 4


def served_name(adapter: Adapter) -> str:
    """Name under which only these weights are served."""
    return f"sha_{adapter.digest[:24]}_{digest_bytes(str(adapter.path.absolute()).encode())[:8]}"


class Adapters:
    """Loaded adapters of a server. Thread-safe."""

    def __init__(
        self, load: Callable[[str, Adapter], None], unload: Callable[[str], None], kept: int = ADAPTERS_KEPT
    ) -> None:
        self._load, self._unload, self._kept = load, unload, kept
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._in_use: Counter[str] = Counter()

    @contextmanager
    def using(self, adapter: Adapter) -> Iterator[str]:
        """Keep the adapter loaded within the context; yield its name."""
        name = served_name(adapter)
        with self._lock:
            if name not in self._loaded:
                self._load(name, adapter)
            self._loaded[name] = None
            self._loaded.move_to_end(name)
            self._drop_stale(name)
            self._in_use[name] += 1
        try:
            yield name
        finally:
            with self._lock:
                self._in_use[name] -= 1

    def forget(self, adapter: Adapter) -> None:
        """Note that a restarted server has lost the adapter."""
        with self._lock:
            self._loaded.pop(served_name(adapter), None)

    def _drop_stale(self, wanted: str) -> None:
        for name in list(self._loaded):
            if len(self._loaded) > self._kept and not self._in_use[name] and name != wanted:
                del self._loaded[name]
                self._unload(name)

"""`vllm:DIR`: a policy with its own vLLM server, which is restarted when it dies.

A request to a dead server fails immediately, like one to any endpoint that is down. So the run pauses, and a later
probe of the policy starts the next server. Rollouts never wait for a start. Adapters are loaded again on request.
"""

import secrets
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.engine.vllm_server import ServerOptions, VllmServer
from sia_core.policy.base import share_cores
from sia_core.policy.protocol import Completion, EndpointError, Policy, Request
from sia_core.policy.spec import ServerSpec, served_digest

MOST_STARTS: Final = 5
"""Maximum starts of a server that keeps dying; then the run ends, and can be resumed."""


class ServedPolicy:
    """A policy and the server behind it. Thread-safe."""

    trainable = True

    def __init__(self, spec: ServerSpec, base: Path, options: ServerOptions, log: Path) -> None:
        """Start the server and wait until it is healthy.

        Raises:
            PolicyError: vLLM is not installed, or the server ended.
            EndpointError: the server was not healthy in time.
        """
        self.spec = spec.spec
        self.digest = served_digest(base)
        self.concurrency = spec.concurrency()
        self._endpoint, self._base, self._options, self._log = spec, base, options, log
        self._advice = f"read {log} on the machine of the server"
        self._starting = threading.Lock()
        self._starts = 0
        self._told = False
        self._server, self._policy = self._start()

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        if not self._server.alive():
            raise self._death()
        return self._policy.sample(request)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Implement `Policy.probe`. The first probe to find the server dead raises; the next starts a new server."""
        with self._starting:
            if not self._server.alive():
                if not self._told:
                    self._told = True
                    raise self._death()
                self._server, self._policy = self._start()
                self._told = False
        return self._policy.probe(adapter)

    def close(self) -> None:
        """End the server."""
        with self._starting:
            self._server.stop()

    def _death(self) -> EndpointError:
        return EndpointError(f"the server has died: {self._server.last_words()}", where=self.spec, hint=self._advice)

    def _start(self) -> tuple[VllmServer, Policy]:
        self._starts += 1
        if self._starts > MOST_STARTS:
            raise PolicyError(f"the server has died {MOST_STARTS} times", where=self.spec, hint=self._advice)
        share_cores()
        from sia_core.policy.vllm import VllmPolicy  # Loads transformers.

        key = secrets.token_urlsafe(32)
        server = VllmServer(self._base, self._options, self._log, key)
        spec = replace(self._endpoint, base_url=server.start())
        return server, VllmPolicy(spec, self._base, key)

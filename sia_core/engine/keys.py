"""Pass keys from the driver's environment to the policy's process only, and passwords of MLflow and Prefect to none.

A local Ray is started without keys, because its processes inherit the driver's environment. The policy's actor receives
the keys as an argument, because Ray prints and logs the contents of a runtime_env.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sia_core.host.external import SECRETS
from sia_core.policy.registry import environment, key_variables


@dataclass(frozen=True)
class PolicyEnvironment:
    """Environment variables that one policy reads. Never printed."""

    values: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, spec: str) -> "PolicyEnvironment":
        """Read the policy's variables from the environment of this process."""
        return cls(environment(spec))

    def install(self) -> None:
        """Set the variables in the environment of this process."""
        os.environ.update(self.values)


def secrets(spec: str) -> list[str]:
    """Return the environment variables that no process except the policy's may inherit."""
    return [name for name in {*key_variables(spec), *SECRETS} if name in os.environ]


@contextmanager
def without_keys(spec: str) -> Iterator[None]:
    """Start processes within this context without keys of a policy and passwords of a server."""
    taken = {name: os.environ.pop(name) for name in secrets(spec)}
    try:
        yield
    finally:
        os.environ.update(taken)

"""Keys: from the driver's environment to the policy's process, and to no other; the passwords of MLflow and Prefect
to none at all.

A local Ray is started without them, for its processes inherit the environment of whoever starts it. The processes of
a remote one have another environment, so the policy's actor is given them; as an argument, since Ray prints and
logs what is in a runtime_env.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sia_core.host.external import SECRETS
from sia_core.policy.registry import environment, key_variables


@dataclass(frozen=True)
class PolicyEnvironment:
    """Variables that one policy reads. Never shown."""

    values: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, spec: str) -> "PolicyEnvironment":
        """Read the policy's variables from the environment of this process."""
        return cls(environment(spec))

    def install(self) -> None:
        """Set the variables in the environment of this process."""
        os.environ.update(self.values)


def secrets(spec: str) -> list[str]:
    """Variables of this process's environment that other processes must not inherit, but for the policy's."""
    return [name for name in {*key_variables(spec), *SECRETS} if name in os.environ]


@contextmanager
def without_keys(spec: str) -> Iterator[None]:
    """Processes that are started inside inherit no key of a policy, and no password of a server."""
    taken = {name: os.environ.pop(name) for name in secrets(spec)}
    try:
        yield
    finally:
        os.environ.update(taken)

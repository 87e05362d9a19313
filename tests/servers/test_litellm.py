"""LiteLLM before vLLM: both wires, as policy and as an agent's model."""

from collections.abc import Callable

import pytest

from sia_core.policy.protocol import Policy
from tests.servers.checks import CHECKS, connect
from tests.servers.conftest import LITELLM_KEY
from tests.servers.running import Running

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_server_passes_over_either_wire(litellm: Running, wire: str, check: Callable[[Policy], object]) -> None:
    suffix = "/v1" if wire == "openai" else ""
    check(connect(f"{wire}:{litellm.model}@{litellm.url}{suffix}#{LITELLM_KEY}"))

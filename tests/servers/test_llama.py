"""llama.cpp: both wires, as policy and as an agent's model. Its Anthropic wire ignores JSON schemas."""

from collections.abc import Callable

import pytest

from sia_core.policy.protocol import Policy
from tests.servers.checks import CHECKS, check_choice, check_choice_by_numbers, connect
from tests.servers.running import Running

pytestmark = pytest.mark.servers

WITHOUT_SCHEMAS = [check_choice_by_numbers if check is check_choice else check for check in CHECKS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_server_passes_over_the_openai_wire(llama: Running, check: Callable[[Policy], object]) -> None:
    check(connect(f"openai:{llama.model}@{llama.url}/v1"))


@pytest.mark.parametrize("check", WITHOUT_SCHEMAS, ids=lambda check: check.__name__)
def test_server_passes_over_the_anthropic_wire(llama: Running, check: Callable[[Policy], object]) -> None:
    check(connect(f"anthropic:{llama.model}@{llama.url}"))

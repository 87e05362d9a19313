"""`transformers serve` as an OpenAI-compatible server: it speaks one wire, and ignores JSON schemas."""

from collections.abc import Callable

import pytest

from sia_core.policy.protocol import Policy
from tests.servers.checks import CHECKS, check_choice, check_choice_by_numbers, connect
from tests.servers.running import Running

pytestmark = pytest.mark.servers

WITHOUT_SCHEMAS = [check_choice_by_numbers if check is check_choice else check for check in CHECKS]


@pytest.mark.parametrize("check", WITHOUT_SCHEMAS, ids=lambda check: check.__name__)
def test_server_passes_over_its_wire(transformers_serve: Running, check: Callable[[Policy], object]) -> None:
    check(connect(f"openai:{transformers_serve.model}@{transformers_serve.url}/v1"))

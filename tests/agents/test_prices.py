"""Money: every kind of token at its own price, and unknown prices never free."""

from pathlib import Path

import pytest

from sia_core.agents.prices import find_price, usage_of
from sia_core.agents.registry import check_agent
from sia_core.domain.errors import UsageError
from sia_core.policy.protocol import Completion

OWN = """
[models."house"]
input = 2.0
cached = 0.5
written = 3.0
output = 10.0
long = { over = 1000, input = 4.0, output = 20.0 }
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    file = tmp_path / "prices.toml"
    file.write_text(OWN)
    return file


def done(prompt: int, output: int, cached: int = 0, written: int = 0) -> Completion:
    return Completion(
        "", "", prompt_tokens=prompt, output_tokens=output, cached_tokens=cached, cache_write_tokens=written
    )


@pytest.mark.usefixtures("own")
def test_each_kind_of_token_has_its_price() -> None:
    price = find_price("house")
    assert price is not None
    assert price.dollars(done(1000, 100, 200, 300)) == pytest.approx((500 * 2 + 200 * 0.5 + 300 * 3 + 100 * 10) / 1e6)
    # Long prompts pay their own prices; what those do not name costs what input costs.
    assert price.dollars(done(1001, 100, 1)) == pytest.approx((1001 * 4 + 100 * 20) / 1e6)


def test_shipped_prices_hold_for_dated_versions(own: Path) -> None:
    own.unlink()
    haiku, dated = find_price("claude-haiku-4-5"), find_price("claude-haiku-4-5-20251001")
    assert haiku is not None and haiku == dated
    assert find_price("claude-haiku-4-5-turbo") is None
    assert find_price("nobody") is None


@pytest.mark.usefixtures("own")
def test_an_unknown_price_is_never_counted_as_free() -> None:
    usage = usage_of(done(10, 1), find_price("house")) + usage_of(done(10, 1), None)
    assert (usage.tokens, usage.dollars) == (22, None)
    assert (usage + usage_of(done(1, 1), find_price("house"))).dollars is None


def test_a_limit_in_dollars_needs_a_price(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    check_agent("openai:house", 1.0)
    with pytest.raises(UsageError, match="no price is known for 'mansion'") as caught:
        check_agent("openai:mansion", 1.0)
    assert "prices.toml" in caught.value.hint
    own.write_text("[models.house]\ninput = 'much'\noutput = 1\n")
    with pytest.raises(UsageError, match=r"models\.house\.input"):
        check_agent("openai:house", 1.0)

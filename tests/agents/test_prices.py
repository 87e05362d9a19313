"""Money: every kind of token at its own price, and unknown prices never free."""

from pathlib import Path

import pytest

from sia_core.agents.prices import Price, find_price, usage_of
from sia_core.agents.registry import check_agent
from sia_core.domain.errors import UsageError
from sia_core.policy.protocol import Completion
from sia_core.policy.spec import parse_spec

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


def price_of(model: str, kind: str = "openai") -> Price | None:
    server = parse_spec(f"{kind}:{model}")
    assert server is not None
    return find_price(server)


def done(prompt: int, output: int, cached: int = 0, written: int = 0) -> Completion:
    return Completion(
        "", "", prompt_tokens=prompt, output_tokens=output, cached_tokens=cached, cache_write_tokens=written
    )


@pytest.mark.usefixtures("own")
def test_every_kind_of_token_has_a_price() -> None:
    price = price_of("house")
    assert price is not None
    assert price.dollars(done(1000, 100, 200, 300)) == pytest.approx((500 * 2 + 200 * 0.5 + 300 * 3 + 100 * 10) / 1e6)
    # Long prompts pay their own prices; what those do not name costs what input costs.
    assert price.dollars(done(1001, 100, 1)) == pytest.approx((1001 * 4 + 100 * 20) / 1e6)


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
    ],
)
def test_dated_version_of_listed_model_has_its_price(own: Path, model: str, same: str) -> None:
    own.unlink()
    kind = "anthropic" if model.startswith("claude") else "openai"
    dated, plain = price_of(model, kind), price_of(same, kind)
    assert plain is not None and dated is not None
    assert dated.of(1000, 100) == plain.of(1000, 100) > 0


@pytest.mark.parametrize("model", ["claude-haiku-4-5-turbo", "mansion", "claude-haiku-4-5-9"])
def test_model_that_only_begins_like_a_listed_one_has_no_price(own: Path, model: str) -> None:
    own.unlink()
    assert price_of(model, "anthropic") is None


def test_own_price_comes_before_the_listed_one(own: Path) -> None:
    own.write_text('[models."gpt-5"]\ninput = 0.5\noutput = 0.5\n')
    price = price_of("gpt-5-2025-08-07")
    assert price is not None and price.of(1_000_000, 1_000_000) == 1.0
    larger = price_of("gpt-5-1")
    assert larger is None


def test_price_follows_the_provider_of_the_address(own: Path) -> None:
    own.unlink()
    model = "moonshotai/kimi-k2"
    assert price_of(model) is None
    there = find_price(parse_spec(f"openai:{model}@https://openrouter.ai/api/v1"))  # type: ignore[arg-type]
    assert there is not None and there.of(1000, 100) > 0


@pytest.mark.usefixtures("own")
def test_unknown_price_is_never_counted_as_free() -> None:
    usage = usage_of(done(10, 1), price_of("house")) + usage_of(done(10, 1), None)
    assert (usage.tokens, usage.dollars) == (22, None)
    assert (usage + usage_of(done(1, 1), price_of("house"))).dollars is None


def test_dollar_limit_needs_a_price(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    check_agent("openai:house", 1.0)
    with pytest.raises(UsageError, match="no price is known for 'mansion'") as caught:
        check_agent("openai:mansion", 1.0)
    assert "prices.toml" in caught.value.hint
    own.write_text("[models.house]\ninput = 'much'\noutput = 1\n")
    with pytest.raises(UsageError, match=r"models\.house\.input"):
        check_agent("openai:house", 1.0)

"""Prices of models' tokens: the user's own prices first, then a small dated table.

A model without a price is never counted as free: its cost is unknown, and a run with a limit in dollars
refuses it before anything is spent.
"""

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.domain.budget import Budget
from sia_core.domain.errors import UsageError
from sia_core.domain.task_config import describe_invalid
from sia_core.domain.usage import ModelUsage
from sia_core.host.home import home
from sia_core.policy.protocol import Completion
from sia_core.policy.spec import parse_spec

PER = 1_000_000


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rates(_Table):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    """Price of tokens read from the provider's cache; None for the price of input."""
    written: float | None = Field(default=None, ge=0)
    """Price of tokens written to the provider's cache; None for the price of input."""


class LongRates(Rates):
    """Rates of all tokens of a request when its prompt is longer than `over` tokens."""

    over: int = Field(ge=1)


class Price(Rates):
    """Price of one model."""

    long: LongRates | None = None

    def dollars(self, completion: Completion) -> float:
        """Return the cost of one request in dollars."""
        return self.of(
            completion.prompt_tokens,
            completion.output_tokens,
            cached=completion.cached_tokens,
            written=completion.cache_write_tokens,
        )

    def of(self, prompt: int, output: int, *, cached: int = 0, written: int = 0) -> float:
        """Return the dollars that one request's tokens cost; `prompt` includes the `cached` and `written` tokens."""
        rates: Rates = self
        if self.long is not None and prompt > self.long.over:
            rates = self.long
        plain = max(0, prompt - cached - written)
        total = plain * rates.input + output * rates.output
        total += cached * (rates.input if rates.cached is None else rates.cached)
        total += written * (rates.input if rates.written is None else rates.written)
        return total / PER


class PriceTable(_Table):
    """The contents of a prices.toml."""

    as_of: str = ""
    models: dict[str, Price] = {}

    def find(self, model: str) -> Price | None:
        """Price of a model, or of the model whose dated version it is (`NAME-2026-10-01`, `NAME-20261001`)."""
        if model in self.models:
            return self.models[model]
        dated = [name for name in self.models if model.startswith(f"{name}-") and model[len(name) + 1 :][:1].isdigit()]
        return self.models[max(dated, key=len)] if dated else None


def usage_of(completion: Completion, price: Price | None) -> ModelUsage:
    """Return the usage of one request; the dollars are unknown without a price."""
    dollars = None if price is None else price.dollars(completion)
    return ModelUsage(1, completion.prompt_tokens, completion.cached_tokens, completion.output_tokens, dollars)


def find_price(model: str) -> Price | None:
    """The user's price of a model, else the table's, else None.

    Raises:
        UsageError: a prices.toml that cannot be read.
    """
    own = home() / "prices.toml"
    tables = [_read(own.read_text(), str(own))] if own.exists() else []
    tables.append(_read((files("sia_core.agents") / "prices.toml").read_text(), "prices.toml"))
    return next((price for table in tables if (price := table.find(model)) is not None), None)


def policy_price(spec: str) -> Price | None:
    """Price of the model behind a policy's spec; None for one that is not known, or runs here."""
    server = parse_spec(spec)
    return None if server is None else find_price(server.model)


def check_priced(policy: str, budget: Budget) -> None:
    """Refuse a limit in dollars that could not be kept.

    Raises:
        UsageError: the policy is somebody's model without a price.
    """
    server = parse_spec(policy)
    paid = server is not None and server.kind in ("openai", "anthropic")
    if budget.dollars is not None and server is not None and paid and find_price(server.model) is None:
        raise UsageError(
            f"no price is known for {server.model!r}, so a budget in dollars could not be kept",
            where="--budget",
            hint=f"put its price into SIA_HOME/prices.toml, as [models.{server.model!r}] input = ..., output = ...",
        )


def _read(text: str, where: str) -> PriceTable:
    try:
        return PriceTable.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"is not TOML: {error}", where=where, hint=f"see {Path(__file__).with_suffix('.toml')}"
        ) from error
    except ValidationError as error:
        raise UsageError(describe_invalid(error), where=where) from error

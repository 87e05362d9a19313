"""Prices of models' tokens: your own prices.toml first, then the table of the genai-prices library (MIT).

A model without a price is never counted as free: its cost is unknown, and a run with a limit in dollars
refuses the model before anything is spent. The library's table is the one of the installed release: nothing is
fetched, so a run's dollars do not change while it lasts.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import genai_prices
from genai_prices.types import ModelPrice, Tier, TieredPrices
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.domain import text_files
from sia_core.domain.budget import Budget
from sia_core.domain.errors import UsageError
from sia_core.domain.invalid import in_words
from sia_core.domain.usage import ModelUsage
from sia_core.host.home import home
from sia_core.policy.protocol import Completion
from sia_core.policy.spec import ServerSpec, parse_spec

_DATE = r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})"
_FORM = 'in the form [models."NAME"] input = 2.0, output = 10.0 (dollars per million tokens)'


@dataclass(frozen=True)
class Price:
    """Price of one model."""

    rates: ModelPrice

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
        used = genai_prices.Usage(
            input_tokens=max(prompt, cached + written),
            output_tokens=output,
            cache_read_tokens=cached,
            cache_write_tokens=written,
        )
        return float(self.rates.calc_price(used)["total_price"])


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rates(_Table):
    """US dollars per million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Price of tokens read from the provider's cache; None for the price of input."""
    written: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Price of tokens written to the provider's cache; None for the price of input."""


class LongRates(Rates):
    """Rates of all tokens of a request when its prompt is longer than `over` tokens."""

    over: int = Field(ge=1)


class OwnRates(Rates):
    """One model of a prices.toml."""

    long: LongRates | None = None

    def price(self) -> Price:
        """Return the price with these rates."""
        names = {"input": "input", "output": "output", "cached": "cache_read", "written": "cache_write"}
        return Price(ModelPrice(**{f"{unit}_mtok": self._rate(name) for name, unit in names.items()}))

    def _rate(self, name: str) -> Any:
        base, above = (_decimal(rates, name) for rates in (self, self.long or self))
        return TieredPrices(base, [Tier(self.long.over, above)]) if self.long else base


class OwnPrices(_Table):
    """The contents of a prices.toml."""

    as_of: str = ""
    models: dict[str, OwnRates] = {}

    def find(self, model: str) -> Price | None:
        """Price of a model, or of the model whose dated version it is (`NAME-2026-10-01`)."""
        known = [name for name in self.models if _is_version(model, name)]
        return self.models[max(known, key=len)].price() if known else None


def usage_of(completion: Completion, price: Price | None) -> ModelUsage:
    """Return the usage of one request; the dollars are unknown without a price."""
    dollars = None if price is None else price.dollars(completion)
    return ModelUsage(1, completion.prompt_tokens, completion.cached_tokens, completion.output_tokens, dollars)


def find_price(server: ServerSpec) -> Price | None:
    """Return your own price of a server's model, else the library's for this provider, else None.

    Raises:
        UsageError: prices.toml cannot be read.
    """
    own = home() / "prices.toml"
    found = _read(own).find(server.model) if own.exists() else None
    return found or _listed(server)


def policy_price(spec: str) -> Price | None:
    """Price of the model behind a policy's spec; None if unknown, or if the model runs here."""
    server = parse_spec(spec)
    return None if server is None else find_price(server)


def check_priced(policy: str, budget: Budget) -> None:
    """Refuse a limit in dollars that could not be kept.

    Raises:
        UsageError: the policy is a provider's model without a price.
    """
    server = parse_spec(policy)
    if budget.dollars is not None and server is not None and server.kind in ("openai", "anthropic"):
        require_price(server, where="--budget", limit="a budget in dollars")


def require_price(server: ServerSpec, *, where: str, limit: str) -> None:
    """Refuse a limit in dollars for a model without a price.

    Raises:
        UsageError: naming the option `where` and the `limit` that could not be kept.
    """
    if find_price(server) is None:
        what = f"no price is known for {server.model!r}, so {limit} could not be kept"
        raise UsageError(what, where=where, hint=f"put its price into SIA_HOME/prices.toml, {_FORM}")


def _listed(server: ServerSpec) -> Price | None:
    """Return the library's price, by the address where that belongs to a known provider, else by the kind of server."""
    nothing = genai_prices.Usage()
    for find in (
        partial(genai_prices.calc_price, provider_api_url=server.base_url),
        partial(genai_prices.calc_price, provider_id=server.kind),
    ):
        try:
            found = find(nothing, server.model)
        except LookupError:
            continue
        # The library matches by prefix: `NAME-turbo` would have the price of `NAME`.
        if _is_version(server.model, found.model.id):
            return Price(found.model_price)
    return None


def _is_version(model: str, name: str) -> bool:
    return model == name or re.fullmatch(re.escape(name) + _DATE, model) is not None


def _decimal(rates: Rates, name: str) -> Decimal:
    value = getattr(rates, name)
    return Decimal(str(rates.input if value is None else value))


def _read(file: Path) -> OwnPrices:
    where = str(file)
    try:
        return OwnPrices.model_validate(text_files.read_toml(file.read_bytes()))
    except text_files.EncodingError as error:
        raise UsageError(str(error), where=where, hint=text_files.SAVE_AS_UTF8) from None
    except text_files.TomlError as error:
        raise UsageError(str(error), where=where, hint=f"write prices {_FORM}") from None
    except ValidationError as error:
        raise UsageError(in_words(error, OwnPrices), where=where, hint=f"write prices {_FORM}") from error

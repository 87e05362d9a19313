"""Make options of the command line from the fields of the configuration."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any

import typer

from sia_core.domain.config import RunConfig
from sia_core.domain.setting import Option, option


def with_settings(
    names: Iterable[str], *, is_change: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for each of these settings, instead of its `**settings`.

    Args:
        names: fields of the configuration.
        is_change: True if the verb changes an existing run, so that no option has a default.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(verb).parameters.values())
        own = [one.replace(kind=one.KEYWORD_ONLY) for one in own if one.kind is not one.VAR_KEYWORD]
        first = [one for one in own if one.default is one.empty]
        described = [option(RunConfig, name) for name in names]
        made = [parameter(replace(one, default=None) if is_change else one) for one in described]
        parameters = [*first, *made, *(one for one in own if one not in first)]
        verb.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
        verb.__annotations__ = {**{one.name: one.annotation for one in parameters}, "return": None}
        return verb

    return decorate


def parameter(one: Option) -> inspect.Parameter:
    """Make the parameter from which Typer reads an option."""
    kind: Any = one.kind if one.kind is bool or one.default is not None else one.kind | None
    flags = [one.flag] if one.kind is bool else []
    least = None if one.low is None else one.kind(one.low)
    most = None if one.high is None else one.kind(one.high)
    text = " ".join(one.description.split())
    made = typer.Option(*flags, min=least, max=most, metavar=one.setting.metavar or None, help=text)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=Annotated[kind, made]
    )

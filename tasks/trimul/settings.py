"""The pinned parameters of task.toml, and which device and plan the environment asks for."""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

from sia_core.domain.errors import UsageError

Device = Literal["cpu", "cuda"]
Plan = Literal["embedded", "large", "ci", "official"]

DEVICE, PLAN = "SIA_TRIMUL_DEVICE", "SIA_TRIMUL_PLAN"


@cache
def settings() -> dict[str, str]:
    """The `[data]` table, all of it part of the task's digest."""
    table: dict[str, str] = tomllib.loads((Path(__file__).parent / "task.toml").read_text())["data"]
    return table


def chosen_device() -> Device:
    """`SIA_TRIMUL_DEVICE`, or cpu. Raises UsageError for any other name.

    Never chosen by looking for a GPU: the sandbox shows programs none, so one is used on demand only.
    """
    return cast("Device", _chosen(DEVICE, "cpu", get_args(Device)))


def chosen_plan() -> Plan:
    """`SIA_TRIMUL_PLAN`, or what fits the device: embedded or official.

    Raises UsageError for any other name, and for the official shapes on a CPU, where one call takes minutes.
    """
    device = chosen_device()
    plan = cast("Plan", _chosen(PLAN, "embedded" if device == "cpu" else "official", get_args(Plan)))
    if (device, plan) == ("cpu", "official"):
        raise UsageError(f"{PLAN}=official takes a GPU", hint=f"set {DEVICE}=cuda, or {PLAN}=large")
    return plan


def _chosen(variable: str, default: str, names: tuple[str, ...]) -> str:
    name = os.environ.get(variable) or default
    if name not in names:
        raise UsageError(f"{variable}={name!r}", hint=f"use one of: {', '.join(names)}")
    return name

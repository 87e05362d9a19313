"""Description of problems for an agent: fields and types of the public part, over the training split."""

from collections.abc import Mapping, Sequence
from typing import Any

from sia_core.domain.task import Problem

_MOST = 200
"""Maximum number of problems read."""


def describe_problems(problems: Sequence[Problem]) -> str:
    """Write a line for each field of `problem`, then a line for each public file."""
    seen = problems[:_MOST]
    lines = [f"problem is a JSON object; seen over {len(seen)} training problems:"]
    lines += _fields([problem.public for problem in seen], "problem")
    for name in sorted({name for problem in seen for name in problem.files}):
        sizes = [len(problem.files[name]) for problem in seen if name in problem.files]
        lines.append(f"- file {name} ({min(sizes)} to {max(sizes)} bytes), visible to programs run by ctx.run")
    return "\n".join(lines)


def _fields(values: Sequence[Mapping[str, Any]], path: str) -> list[str]:
    lines = []
    for name in sorted({name for value in values for name in value}):
        found = [value[name] for value in values if name in value]
        missing = "" if len(found) == len(values) else f", in {len(found)} of {len(values)}"
        lines.append(f'- {path}["{name}"]: {_type(found)}{missing}')
        inner = [value for value in found if isinstance(value, Mapping)]
        if inner:
            lines += _fields(inner, f'{path}["{name}"]')
    return lines


def _type(values: Sequence[Any]) -> str:
    kinds = sorted({_kind(value) for value in values})
    sizes = [len(value) for value in values if isinstance(value, (str, list))]
    span = f" of length {min(sizes)} to {max(sizes)}" if sizes else ""
    return " or ".join(kinds) + span


def _kind(value: Any) -> str:
    if isinstance(value, list):
        inner = sorted({_kind(entry) for entry in value[:_MOST]})
        return f"list of {' or '.join(inner) or 'nothing'}"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "object")

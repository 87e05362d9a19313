"""Verdicts, problems, task.toml and harness.toml near valid ones: taken as plain data, or refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.domain import received, text_files
from sia_core.domain.errors import HarnessError, SiaError, TaskError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import canonical_json
from sia_core.domain.json_data import dumps, loads
from sia_core.domain.plain_data import plain
from sia_core.domain.problem import Problem
from sia_core.domain.rollout import Rollout, Unit, Verdict
from sia_core.domain.task_config import TaskConfig, read_config
from tests.borders.mutations import FEW, MANY
from tests.factories import TOY

UNIT = Unit("task", "harness", "policy", None, "train", "p1", 7)

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.dates(), st.decimals(),
    st.complex_numbers(), st.floats(width=32).map(np.float32), st.integers(-9, 9).map(np.int8), st.just(pd.NA),
    st.lists(st.integers(-9, 9)).map(np.array), st.sets(st.integers()), st.just(object()),
)  # fmt: skip
keys = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.just(np.int64(3)), st.binary())
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(keys, inner), st.tuples(inner, inner)),
    max_leaves=12,
)


def check_public(value: Any) -> None:
    try:
        found = plain(value, "public")
    except TaskError as error:
        assert error.what.startswith(("public", "a key of public", "the key")) and error.hint  # noqa: PT017
    else:
        json.loads(canonical_json({"x": found}))


def mostly(valid: Any) -> st.SearchStrategy[Any]:
    """The valid value, three times of four."""
    return st.one_of(*[st.just(valid)] * 3, values)


verdicts = st.tuples(
    mostly(0.5),
    mostly(True),
    mostly({"accuracy": 0.5}) | st.dictionaries(keys, leaves, max_size=3),
    mostly("wrong"),
)


def check_verdict(parts: tuple[Any, Any, Any, Any]) -> None:
    try:
        found = received.verdict(Verdict(*parts), (0, 1))
    except TaskError as error:
        assert "verify()" in error.what and error.hint  # noqa: PT017
    else:
        assert loads(Rollout, dumps(Rollout(UNIT, verdict=found))).verdict == found


problems = st.builds(
    Problem,
    mostly("p1"),
    mostly("train"),
    mostly({"text": "a"}) | st.dictionaries(keys, values, max_size=3),
    mostly({"a.txt": b"a"}) | st.dictionaries(keys, leaves, max_size=3),
    values,
)


def check_problems(given: Any) -> None:
    try:
        found = received.problems(given, "train")
    except TaskError as error:
        assert "load('train')" in error.what and error.hint  # noqa: PT017
        return
    for problem in found:
        assert isinstance(problem.id, str)
        json.loads(canonical_json(problem.public))
        assert all(isinstance(problem.files[name], bytes) for name in problem.files)


LITERALS = [
    *('""', '"x"', "0", "-1", "1", "3.5", "inf", "-inf", "nan", "1e400", "9" * 30, "true", "false", "[]", "{}"),
    *('["a"]', "[[1]]", "{a = 1}", "2026-01-01", "07:32:00", '"""', "'", "\\", '"\\ud800"', "[" * 2000, "=", "# c", ""),
]
TASK = f"""score_range = [0, 1]
{(Path(TOY) / "task.toml").read_text()}
[sampling]
max_tokens = 5
temperature = 1.0

[forms.small]
title = "Pick one"
[forms.small.plan]
problems = 2
"""
HARNESS = (Path(TOY) / "harness" / "harness.toml").read_text()


@st.composite
def near(draw: st.DrawFn, valid: str) -> bytes:
    """A TOML text with up to four changes of a line, and seldom any bytes among it."""
    lines = valid.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(("value", "value", "value", "key", "remove", "repeat", "move", "any")))
        name, sign, _ = lines[at].partition("=")
        if how == "value" and sign:
            lines[at] = f"{name}= {draw(st.sampled_from(LITERALS))}"
        elif how == "key" and sign:
            lines[at] = f"{draw(st.text(max_size=5))}{lines[at][len(name) :]}"
        elif how == "remove" and len(lines) > 1:
            del lines[at]
        elif how == "repeat":
            lines.insert(at, lines[at])
        elif how == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        else:
            lines[at] = draw(st.text(max_size=9))
    data = "\n".join(lines).encode(errors="surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at:]
    return data


def check_task_file(folder: Path, data: bytes, form: str) -> None:
    file = folder / "task.toml"
    file.write_bytes(data)
    try:
        found = read_config(file, form)
    except SiaError as error:
        assert error.what and "Input should" not in error.what and error.where  # noqa: PT017
    else:
        assert TaskConfig.model_validate(found.model_dump()) == found


def check_harness_file(data: bytes) -> None:
    try:
        found = Harness.from_files(
            {"harness.toml": data, "agent.py": b"async def solve(problem, ctx):\n    return 1\n"}
        )
    except HarnessError as error:
        assert error.what and "Input should" not in error.what  # noqa: PT017
    else:
        assert found.digest and text_files.read_toml(found.files["harness.toml"])


CASES: dict[str, Callable[[Path], tuple[Callable[..., None], list[st.SearchStrategy[Any]]]]] = {
    "public": lambda _: (check_public, [values]),
    "verdict": lambda _: (check_verdict, [verdicts]),
    "any verdict": lambda _: (check_verdict, [st.tuples(values, values, values, values)]),
    "problems": lambda _: (check_problems, [st.lists(problems | values, max_size=3) | values]),
    "task.toml": lambda folder: (
        lambda data, form: check_task_file(folder, data, form),
        [near(TASK), st.sampled_from(("", "", "small", "none"))],
    ),
    "harness.toml": lambda _: (check_harness_file, [near(HARNESS)]),
}


def fuzz(name: str, folder: Path, limits: settings) -> None:
    check, strategies = CASES[name](folder)
    limits(given(*strategies)(check))()


@pytest.mark.parametrize("name", CASES)
def test_data_of_a_task_is_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_data_of_a_task_are_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, MANY)

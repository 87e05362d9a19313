"""Values that a task's code returns: converted where nothing is lost, else refused by the name of their field."""

import datetime as dt
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from sia_core.check.report import Finding
from sia_core.check.task import check_task
from sia_core.domain import received
from sia_core.domain.errors import ServiceError, TaskError
from sia_core.domain.hashing import canonical_json
from sia_core.domain.json_data import dumps, loads
from sia_core.domain.lab import Lab
from sia_core.domain.plain_data import DEPTH, plain
from sia_core.domain.problem import Problem
from sia_core.domain.rollout import Failure, Rollout, Unit, Verdict
from sia_core.domain.task import Task
from sia_core.engine import worker
from sia_core.host.retrying import Schedule
from sia_core.loop.rollouts import require_scored
from sia_core.record.journal import Journal
from tests.loop.in_process import open_session

UNIT = Unit("task", "harness", "policy", None, "train", "p1", 7)
NO_LAB = cast("Lab", None)
CODE = """
import datetime
import numpy as np
import pandas as pd
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem

def problem(split, **more):
    return Problem(**{{"id": f"{{split}}-1", "split": split, "public": {{"x": 1}}, "files": {{}}, **more}})

def load(split):
    return {load}

def verify(problem, answer, lab):
    return {verify}
"""


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


def task(folder: Path, load: str = "[problem(split)]", verify: str = "Verdict(0.5)", more: str = "") -> Task:
    (folder / "task.toml").write_text('name = "numbers"\ntitle = "t"\nmetric = "m"\n')
    (folder / "task.py").write_text(CODE.format(load=load, verify=verify) + more)
    return Task.load(folder)


def verified(made: Task) -> Verdict:
    return made.verify(made.problems("train")[0], {}, NO_LAB)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("np.float32(0.5)", 0.5),
        ("np.float64(0.5)", 0.5),
        ("np.float16(0.5)", 0.5),
        ("np.longdouble(0.5)", 0.5),
        ("np.int64(1)", 1),
        ("np.uint8(1)", 1),
        ("np.bool_(True)", True),
        ("np.array(0.25)", 0.25),
        ("pd.Series([0.5], dtype='float32').mean()", 0.5),
        ("pd.Series([1], dtype='Int64').iloc[0]", 1),
    ],
)
def test_library_number_as_score_becomes_the_equal_number(tmp_path: Path, value: str, expected: float) -> None:
    found = verified(task(tmp_path, verify=f"Verdict({value}, metrics={{np.str_('m'): {value}}})"))
    assert (found.score, found.metrics) == (expected, {"m": expected})
    assert type(found.score) is type(found.metrics["m"]) is type(expected)
    assert loads(Rollout, dumps(Rollout(UNIT, verdict=found))).verdict == found


def test_torch_scalar_as_score_becomes_the_equal_number() -> None:
    torch = pytest.importorskip("torch")
    score = cast("float", torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True))
    assert received.verdict(Verdict(score), (0, 1)).score == 0.5


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("Verdict(np.float32('nan'))", "verify(): score is NaN"),
        ("Verdict(float('nan'))", "verify(): score is nan"),
        ("Verdict(np.float64('inf'))", "verify(): score is inf"),
        ("Verdict(pd.NA)", "verify(): score is pandas.NA"),
        ("Verdict(pd.NaT)", "verify(): score is pandas.NaT"),
        ("Verdict(None)", "verify(): score is None"),
        ("Verdict('0.5')", "verify(): score is '0.5'"),
        ("Verdict(np.array([0.5]))", "verify(): score is of type ndarray"),
        ("Verdict(np.complex64(0.5))", "verify(): score is of type complex"),
        ("Verdict(0.5, metrics={'accuracy': float('nan')})", "verify(): metrics.accuracy is nan"),
        ("Verdict(0.5, metrics={'accuracy': np.float32('inf')})", "verify(): metrics.accuracy is infinite"),
        ("Verdict(0.5, metrics={'accuracy': pd.NA})", "verify(): metrics.accuracy is pandas.NA"),
        ("Verdict(0.5, metrics={'accuracy': None})", "verify(): metrics.accuracy is None"),
        ("Verdict(0.5, metrics={'accuracy': [0.5]})", "verify(): metrics.accuracy is of type list"),
        ("Verdict(0.5, metrics={'accuracy': '1'})", "verify(): metrics.accuracy is '1'"),
        ("Verdict(0.5, metrics={0.5: 1})", "verify(): a name in metrics is 0.5"),
        ("Verdict(0.5, metrics={1: 1, '1': 2})", "two keys that read '1'"),
        ("Verdict(0.5, metrics=None)", "verify(): metrics is None"),
        ("Verdict(0.5, metrics=[('a', 1)])", "verify(): metrics is of type list"),
        ("Verdict(0.5, feedback=None)", "verify(): feedback is None"),
        ("Verdict(0.5, feedback=b'wrong')", "verify(): feedback is bytes"),
        ("Verdict(0.5, feedback='\\ud800')", "verify(): feedback is a text with a lone surrogate"),
        ("Verdict(0.5, valid=None)", "verify(): valid is None"),
        ("Verdict(0.5, valid='yes')", "verify(): valid is 'yes'"),
        ("Verdict(1.5)", "verify() gave the score 1.5, not a Verdict within [0, 1]"),
        ("0.5", "verify() gave of type float"),
        ("None", "verify() gave None, not a Verdict"),
        ("{'score': 0.5}", "verify() gave of type dict, not a Verdict"),
    ],
)
def test_unsound_verdict_is_refused_by_field_and_problem(tmp_path: Path, verdict: str, words: str) -> None:
    with pytest.raises(TaskError) as caught:
        verified(task(tmp_path, verify=verdict))
    assert words in caught.value.what
    assert caught.value.where == "numbers, problem train-1"
    assert caught.value.hint


@pytest.mark.parametrize(("valid", "expected"), [("np.bool_(False)", False), ("1", True), ("np.int8(0)", False)])
def test_flag_of_a_verdict_becomes_a_bool(tmp_path: Path, valid: str, expected: bool) -> None:
    assert verified(task(tmp_path, verify=f"Verdict(0.5, {valid})")).valid is expected


def test_plain_verdict_passes_the_door_unchanged() -> None:
    verdict = Verdict(1, False, {"a": 0.5, "b": True}, "é")
    assert dumps(received.verdict(verdict, (0, 1))) == dumps(verdict)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1, 2], [3, 4]], np.int32), [[1, 2], [3, 4]]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([], np.float32), []),
        ({np.int64(1): np.float32(0.5)}, {1: 0.5}),
        ([np.int8(1), (np.float16(0.5),)], [1, (0.5,)]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Level.LOW, 1),
        (Colour.RED, "red"),
        (pd.Index([1, 2]), [1, 2]),
    ],
)
def test_public_value_of_a_library_becomes_json_data(value: Any, expected: Any) -> None:
    found = plain({"x": value}, "public")
    assert found == {"x": expected}
    assert json.loads(canonical_json(found)) == json.loads(json.dumps({"x": expected}))


@pytest.mark.parametrize(
    ("value", "words", "hint"),
    [
        (float("nan"), "public.rows[1].price is NaN", "leave the field out"),
        (np.float32("nan"), "public.rows[1].price is NaN", "leave the field out"),
        (-np.inf, "public.rows[1].price is infinite", "finite"),
        (np.array([1.0, np.nan]), "public.rows[1].price[1] is NaN", "finite"),
        (pd.NA, "public.rows[1].price is pandas.NA", "None"),
        (pd.NaT, "public.rows[1].price is pandas.NaT", "None"),
        ({1, 2}, "public.rows[1].price is a set, which has no order", "sorted"),
        (frozenset("ab"), "public.rows[1].price is a set", "sorted"),
        (b"x", "public.rows[1].price is bytes", "Problem.files"),
        (np.bytes_(b"x"), "public.rows[1].price is bytes", "Problem.files"),
        (dt.date(2026, 1, 1), "public.rows[1].price is a date", "isoformat"),
        (pd.Timestamp("2026-01-01"), "public.rows[1].price is a date", "isoformat"),
        (np.datetime64("2026-01-01", "ns"), "public.rows[1].price is of type datetime64", ""),
        (np.array(["2026-01-01"], "datetime64[ns]"), "public.rows[1].price is of type ndarray", "tolist"),
        (Decimal("0.1"), "public.rows[1].price is of type Decimal", "plain data"),
        (Fraction(1, 3), "public.rows[1].price is of type Fraction", "plain data"),
        (1j, "public.rows[1].price is of type complex", "plain data"),
        (np.longdouble(1) / 3, "public.rows[1].price is of type longdouble", ""),
        (pd.Series([1]), "public.rows[1].price is of type Series", "tolist"),
        (pd.DataFrame({"a": [1]}), "public.rows[1].price is of type DataFrame", ""),
        (range(3), "public.rows[1].price is of type range", "lists"),
        (Path("x"), "public.rows[1].price is of type PosixPath", "plain data"),
        (object(), "public.rows[1].price is of type object", "plain data"),
        ("\ud800", "public.rows[1].price is a text with a lone surrogate", "replace"),
        pytest.param(10**5000, "public.rows[1].price is an integer of", "text", id="5000 digits"),
        ({None: 1}, "the key None of public.rows[1].price", "texts"),
        ({(1, 2): 1}, "the key (1, 2) of public.rows[1].price", "texts"),
        ({float("nan"): 1}, "a key of public.rows[1].price is NaN", "finite"),
        ({1: "a", "1": "b"}, "two keys that read '1'", "differ"),
        ({1: "a", "b": "b"}, "texts and numbers as keys", "texts"),
    ],
)
def test_public_value_without_an_equal_in_json_is_refused_by_place(value: Any, words: str, hint: str) -> None:
    with pytest.raises(TaskError) as caught:
        plain({"rows": [{}, {"price": value}]}, "public")
    assert words in caught.value.what and hint in caught.value.hint


def test_public_data_that_hold_themselves_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TaskError, match="holds itself"):
        plain(loop, "public")


def test_plain_public_data_are_not_copied() -> None:
    row = ("a", OrderedDict(b=[1, 2.5, None, True]))
    assert plain(row, "public") is row


@pytest.mark.parametrize(("given_id", "expected"), [("7", "7"), ("np.int64(7)", "7"), ("np.str_('a')", "a")])
def test_integer_and_numpy_ids_become_texts(tmp_path: Path, given_id: str, expected: str) -> None:
    made = task(tmp_path, load=f"[problem(split, id={given_id})]")
    assert made.problem("train", expected).id == expected
    assert type(made.problems("train")[0].id) is str


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ("[problem(split, id=0.5)]", "load('train')[0].id is 0.5"),
        ("[problem(split, id=True)]", "load('train')[0].id is True"),
        ("[problem(split, id=None)]", "load('train')[0].id is None"),
        ("[problem(split, id='')]", "load('train')[0].id is empty"),
        ("[problem(split, id=1), problem(split, id='1')]", "2 problems with 1 ids"),
        ("[problem(split, public={'x': float('nan')})]", "load('train'), problem train-1: public.x is NaN"),
        ("[problem(split, public={'x': {1, 2}})]", "load('train'), problem train-1: public.x is a set"),
        ("[problem(split, public={1: 2})]", "load('train'), problem train-1: public: a key is 1"),
        ("[problem(split, public=[1])]", "load('train'), problem train-1: public is of type list"),
        ("[problem(split, public=pd.DataFrame())]", "load('train'), problem train-1: public is of type DataFrame"),
        ("[problem(split, files={'a': 'text'})]", "load('train'), problem train-1: files.a is of type str"),
        ("[problem(split, files={'../a': b''})]", "load('train'), problem train-1: files: a key is '../a'"),
        ("[problem(split, files={'/a': b''})]", "load('train'), problem train-1: files: a key is '/a'"),
        ("[problem(split, files=None)]", "load('train'), problem train-1: files is None"),
        ("[{'id': 1}]", "load('train')[0] is of type dict"),
        ("None", "load('train') gave None, not problems"),
        ("{'a': problem(split)}", "load('train') gave of type dict, not problems"),
        ("1 / 0", "load('train') raised ZeroDivisionError: division by zero"),
        ("(problem(split, id=1 // n) for n in (1, 0))", "load('train') raised ZeroDivisionError"),
    ],
)
def test_unsound_problem_is_refused_by_name_and_fails_the_check(tmp_path: Path, load: str, words: str) -> None:
    made = task(tmp_path, load=load)
    with pytest.raises(TaskError) as caught:
        made.receive()
    assert words in caught.value.what and caught.value.hint
    assert str(tmp_path / "task.py") in caught.value.where
    told: list[Finding] = []
    check_task(made, tier="none", problems=1, tell=told.append, progress=lambda *_: None)
    assert [(one.check, one.status) for one in told] == [("load", "failed")]
    assert words in told[0].seen


def test_files_of_kindred_types_become_bytes_by_name(tmp_path: Path) -> None:
    files = {PurePosixPath("a/b"): bytearray(b"1"), np.str_("c"): np.bytes_(b"2"), "d": memoryview(b"3")}
    (found,) = received.problems([Problem("p", "train", files=cast("Any", files))], "train")
    assert found.files == {"a/b": b"1", "c": b"2", "d": b"3"}
    assert {type(data) for data in found.files.values()} == {bytes}


def test_values_made_on_demand_are_converted_when_they_are_read(tmp_path: Path) -> None:
    made: list[str] = []

    class Lazy(Mapping[str, Any]):
        def __getitem__(self, name: str) -> Any:
            made.append(name)
            return np.float32(0.5) if name == "sound" else float("nan")

        def __iter__(self) -> Iterator[str]:
            return iter(("sound", "missing"))

        def __len__(self) -> int:
            return 2

    (found,) = received.problems([Problem("p", "train", Lazy())], "train")
    assert made == []
    assert found.public["sound"] == 0.5 and type(found.public["sound"]) is float
    with pytest.raises(TaskError, match=r"problem p: public\.missing is NaN"):
        _ = found.public["missing"]


@pytest.mark.parametrize("value", ["np.float32(0.5)", "np.int64(2)", "np.bool_(True)", "np.str_('x')", "np.array(1.5)"])
def test_report_of_library_values_becomes_plain(tmp_path: Path, value: str) -> None:
    made = task(tmp_path, more=f"\ndef report(split, rollouts):\n    return {{'x': {value}}}\n")
    (found,) = made.report("test", []).values()
    assert type(found) in (float, int, bool, str)


@pytest.mark.parametrize("body", ["return {'x': float('nan')}", "return None", "1 / 0", "return {'x': pd.NA}"])
def test_failing_report_leaves_a_remark_and_the_paid_scores(tmp_path: Path, body: str) -> None:
    made = task(tmp_path, more=f"\ndef report(split, rollouts):\n    {body}\n")
    with pytest.raises(TaskError, match=r"report\(\)"):
        made.report("test", [])
    (remark,) = made.report_or_remark("test", []).items()
    assert remark[0] == "no report" and "report()" in str(remark[1])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("def gold(problem):\n    return {'x': float('nan')}", "gold(), problem train-1: the answer.x is NaN"),
        ("def gold(problem):\n    return {'x': {1}}", "the answer.x is a set"),
        ("def gold(problem):\n    1 / 0", "gold() raised ZeroDivisionError"),
        ("def baits(problem):\n    return [1]", "baits() is of type list"),
        ("def baits(problem):\n    raise KeyError('x')", "baits() raised KeyError: 'x'"),
    ],
)
def test_unsound_gold_or_baits_are_a_finding(tmp_path: Path, more: str, words: str) -> None:
    told: list[Finding] = []
    made = task(tmp_path, load='[problem(split, public={"s": split})]', more=f"\n{more}\n")
    report = check_task(made, tier="none", problems=1, tell=told.append, progress=lambda *_: None)
    (found,) = [finding for finding in report.failed if finding.check == "gold"]
    assert words in found.seen


def test_numpy_gold_is_verified_as_json_data(tmp_path: Path) -> None:
    made = task(tmp_path, more="\ndef gold(problem):\n    return {'x': np.array([1, 2]), 'y': np.float32(0.5)}\n")
    assert made.gold(made.problems("train")[0]) == {"x": [1, 2], "y": 0.5}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("def canaries(split):\n    raise KeyError(split)", "canaries() raised KeyError"),
        ("def canaries(split):\n    return [7]", "canaries() raised TypeError"),
        ("def shared():\n    raise OSError('no disk')", "shared() raised OSError: no disk"),
        ("def shared():\n    return None", "shared()"),
    ],
)
def test_failing_hook_is_named_before_any_rollout(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(TaskError) as caught:
        task(tmp_path, more=f"\n{more}\n").receive()
    assert words in caught.value.what and "task.py" in caught.value.where


def test_failing_prepare_is_named_with_its_line(tmp_path: Path) -> None:
    made = task(tmp_path, more="\ndef prepare(progress):\n    open('/no/such/file')\n")
    with pytest.raises(TaskError, match=r"prepare\(\) raised FileNotFoundError") as caught:
        made.prepare(lambda *_: None)
    assert caught.value.where.startswith(f"{tmp_path / 'task.py'}:")


def test_check_names_the_field_of_an_unsound_verdict(tmp_path: Path) -> None:
    made = task(
        tmp_path,
        load='[problem(split, public={"s": split})]',
        verify="Verdict(0.0, metrics={'accuracy': np.float32('nan')})",
    )
    told: list[Finding] = []
    check_task(made, tier="none", problems=1, tell=told.append, progress=lambda *_: None)
    (found,) = [finding for finding in told if finding.check == "range"]
    assert found.status == "failed" and "verify(): metrics.accuracy is NaN" in found.seen


def test_domain_loads_without_numpy_and_pandas() -> None:
    code = "import sys, sia_core.domain.received as r; assert not {'numpy', 'pandas', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_depth_of_public_data_is_bounded() -> None:
    value: Any = 0
    for _ in range(DEPTH):
        value = [value]
    assert plain(value, "public") is value
    with pytest.raises(TaskError, match="nested deeper"):
        plain([value], "public")


@pytest.mark.usefixtures("bwrap")
def test_run_without_a_single_verdict_ends_by_the_verifiers_error_and_can_resume(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*_: object) -> Verdict:
        return Verdict(float("nan"))

    monkeypatch.setattr(worker, "RETRY", Schedule(attempts=1, first_s=0.0, jitter=0.0))
    monkeypatch.setattr(Task, "verify", verify)
    with pytest.raises(TaskError) as caught, open_session(tmp_path, empty_store):
        pass
    assert "none of 8 rollouts has a verdict; 8 times unverified: verify(): score is nan" in caught.value.what
    assert "sia check" in caught.value.hint
    with Journal(tmp_path / "journal.db") as journal:
        assert len(journal) == 0


def test_rollouts_lost_to_the_machine_end_as_a_service_error() -> None:
    lost = [Rollout(UNIT, failure=Failure("sandbox", "no room"))]
    session = cast("Any", SimpleNamespace(journal=SimpleNamespace(drop=list)))
    with pytest.raises(ServiceError, match="1 times sandbox: no room"):
        require_scored(session, lost, "generation 1: execute")
    require_scored(session, [*lost, Rollout(UNIT, verdict=Verdict(0.5))], "generation 1: execute")

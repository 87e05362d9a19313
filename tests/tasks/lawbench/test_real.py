"""The real data where they are: pinned figures of the corpus, and what a verification costs. Nothing is fetched."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sia_core.domain.task import Task
from sia_core.host.downloads import wheel_path
from sia_core.host.home import home
from tasks.lawbench import data, library, lines, settings
from tasks.lawbench.compat import published_accuracy
from tasks.lawbench.labels import letters
from tasks.lawbench.speed import seconds_of_all
from tasks.lawbench.splits import splits
from tests.tasks.lawbench.conftest import forget

HOMES = [Path(os.environ["SIA_HOME"])] if os.environ.get("SIA_HOME") else []
HOMES.append(Path("~/.sia").expanduser())


@pytest.fixture(scope="module", autouse=True)
def _real(_prepared: Path) -> Iterator[None]:
    """The user's own store, with the pins of task.toml."""
    found = next((folder for folder in HOMES if (folder / "data" / "lawbench" / "answers.csv").exists()), None)
    if found is None:
        pytest.skip("the data are not here: sia data fetch lawbench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_HOME", str(found))
        for name, value in settings.data_settings.__wrapped__().items():
            patch.setitem(settings.data_settings(), name, value)
        forget()
        yield
    forget()


def test_corpus_matches_the_published_one() -> None:
    assert (len(data.train_cases()), len(data.sealed_cases()), len(data.labels())) == (5332, 913, 191)
    assert {case.label for case in data.train_cases()} == set(data.labels())
    assert len({letters(charge) for charge in data.labels()}) == 191
    exact = {case.text for case in data.train_cases()}
    assert sum(case.text in exact for case in data.sealed_cases()) == 12


def test_pools_match_the_recorded_ones() -> None:
    pools = splits()
    assert (len(pools.train), len(pools.gate), len(pools.library), len(pools.repeated)) == (480, 480, 4358, 13)
    assert {case.label for case in pools.library} == set(data.labels())


def test_compat_agrees_with_a_join_of_the_published_files() -> None:
    """By pandas, from the wheel itself, as the published evaluation joins them."""
    wheel = wheel_path(data._wheel())
    if not wheel.exists():
        pytest.skip(f"no wheel in {home()}")
    pandas = pytest.importorskip("pandas")
    with zipfile.ZipFile(wheel) as archive:
        truth = pandas.read_csv(io.BytesIO(archive.read(data.MEMBERS["answers"])))
        sample = archive.read("sia/tasks/lawbench/data/public/sample_submission.csv").decode()
    cases = data.sealed_cases()
    first = library.first_candidates([case.text for case in cases])["centroids"]
    for answers in (dict(zip((case.id for case in cases), first, strict=True)), dict(_read(sample))):
        rows = list(answers.items())[:-40]
        given = pandas.DataFrame(rows, columns=["id", "pred"])
        joined = truth.merge(given, on="id", how="left")["pred"].fillna("__missing__").to_numpy() == truth["label"]
        ours = published_accuracy(rows, {case.id: case.label for case in data.sealed_cases()})
        assert ours == pytest.approx(float(joined.mean()), abs=1e-6)


def _read(text: str) -> Iterator[tuple[int, str]]:
    for row in csv.DictReader(io.StringIO(text)):
        yield int(row["id"]), row["label"]


@pytest.mark.slow
def test_baseline_lines_match_those_of_the_readme() -> None:
    truth = {case.id: case.label for case in data.sealed_cases()}
    found = {name: published_accuracy(list(answers.items()), truth) for name, answers in lines.lines().items()}
    readme = (Task.load("lawbench").path / "README.md").read_text()
    for name, accuracy in found.items():
        assert f"| {name} | {accuracy:.4f} |" in readme, json.dumps(found, ensure_ascii=False)


def test_all_sealed_answers_are_verified_in_half_a_second() -> None:
    assert min(seconds_of_all() for _ in range(3)) <= 0.5

"""Metrics agree with external code, and MAGIC agrees with figures measured elsewhere."""

import math

import numpy as np
import pytest

from tasks.denoising.magic import magic
from tasks.denoising.metrics import Reference, mass_share, match_depth, mse, poisson, published_poisson
from tasks.denoising.metrics import log_normalised as normalised
from tests.tasks.denoising.conftest import real_counts

Part = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@pytest.fixture(scope="module")
def parts() -> tuple[Part, Part]:
    """Train and test of a small molecular split."""
    random = np.random.RandomState(3)
    counts = random.poisson(random.gamma(0.4, 4.0, size=(40, 60)))
    counts[:, 0] += 1
    train = random.binomial(counts, 0.9)
    return train, counts - train


def test_mse_matches_that_of_sklearn(parts: tuple[Part, Part]) -> None:
    preprocessing, metrics = pytest.importorskip("sklearn.preprocessing"), pytest.importorskip("sklearn.metrics")
    train, test = parts
    logs = [np.log1p(preprocessing.normalize(part.astype(float), norm="l1") * 1e4) for part in (test, train)]
    assert mse(normalised(test), train) == pytest.approx(metrics.mean_squared_error(*logs), abs=1e-9)


@pytest.mark.slow  # importing scanpy takes half a minute on a busy machine
def test_mse_matches_that_of_scanpy(parts: tuple[Part, Part]) -> None:
    anndata, scanpy = pytest.importorskip("anndata"), pytest.importorskip("scanpy")
    train, test = parts
    logs = []
    for part in (test, train):
        table = anndata.AnnData(part.astype(np.float64))
        scanpy.pp.normalize_total(table, target_sum=10_000)
        scanpy.pp.log1p(table)
        logs.append(table.X)
    assert mse(normalised(test), train) == pytest.approx(np.mean((logs[0] - logs[1]) ** 2), abs=1e-6)


def test_poisson_losses_match_values_by_hand() -> None:
    truth, guess = np.array([[0, 2], [1, 0]]), np.array([[0.5, 1.0], [2.0, 0.0]])
    right = (0.5 + (1.0 - 2 * math.log(1.0 + 1e-6)) + (2.0 - math.log(2.0 + 1e-6)) + 0.0) / 4
    swapped = ((0 - 0.5 * math.log(1e-6)) + (2 - math.log(2 + 1e-6)) + (1 - 2.0 * math.log(1 + 1e-6)) + 0.0) / 4
    assert poisson(truth, guess) == pytest.approx(right, abs=1e-12)
    assert published_poisson(truth, guess) == pytest.approx(swapped, abs=1e-12)


def test_scale_runs_from_no_denoising_to_the_test_part(parts: tuple[Part, Part]) -> None:
    train, test = parts
    reference = Reference(train, test)
    none = reference.scaled(train.astype(np.float64))
    assert (none.mse, none.poisson, none.published_poisson) == pytest.approx((0, 0, 0), abs=1e-12)
    perfect = reference.scaled(test.astype(np.float64) * (train.sum() / test.sum()))
    assert (perfect.mse, perfect.poisson, perfect.published_poisson) == pytest.approx((1, 1, 1), abs=1e-9)


def test_published_poisson_rewards_little_mass_and_the_right_one_does_not(parts: tuple[Part, Part]) -> None:
    train, test = parts
    tiny = Reference(train, test).scaled(train.astype(np.float64) * 1e-3)
    assert tiny.published_poisson > 0.9
    assert tiny.poisson < 0


def test_matching_depth_undoes_any_scale_of_a_cell(parts: tuple[Part, Part]) -> None:
    train, _ = parts
    scales = np.linspace(1e-3, 1e3, len(train))[:, None]
    assert np.allclose(match_depth(train * scales, train), train)


def test_mass_share_is_a_mean_over_cells_with_mass() -> None:
    assert mass_share(np.array([[3, 1], [2, 2], [0, 0]])) == pytest.approx((0.75 + 0.5) / 2)


def test_magic_scores_as_the_original_does_on_the_same_data() -> None:
    counts = real_counts()
    if counts is None:
        pytest.skip("the celltypist sample is not beside the project")
    counts = counts[:, np.argsort(-counts.sum(axis=0), kind="stable")[:2000]]
    train = np.random.RandomState(42).binomial(counts, 0.9)
    found = Reference(train, counts - train).scaled(match_depth(magic(train), train))
    assert 0.125 < found.mse < 0.145


def test_magic_keeps_shape_sign_and_repeats_itself(parts: tuple[Part, Part]) -> None:
    train, _ = parts
    smooth = magic(train)
    assert smooth.shape == train.shape
    assert np.isfinite(smooth).all() and (smooth >= 0).all()
    assert np.array_equal(smooth, magic(train))


def test_magic_smooths_by_a_convex_mean() -> None:
    """Equal cells are returned unchanged with any graph."""
    cells = np.tile(np.array([[4, 9, 1, 16]]), (12, 1))
    assert np.allclose(magic(cells), cells)

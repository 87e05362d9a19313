"""The reference agrees with an independent float64 computation; data and layout are what they claim."""

import itertools

import numpy as np
import pytest

from tasks.trimul import inputs
from tasks.trimul.compare import compare
from tasks.trimul.inputs import MASK, OUT, Floats, Inputs, X
from tasks.trimul.reference import expected, trimul
from tasks.trimul.settings import Plan
from tasks.trimul.shapes import OFFICIAL, Call, Case, Recipe, Shape, recipes

SMALL = [Shape(1, 32, 32, 16), Shape(2, 9, 24, 8), Shape(1, 1, 16, 8)]


def independent(data: Inputs) -> np.ndarray:
    """float64, element by element of the formula, by einsum and torch's own layer norm."""
    torch = pytest.importorskip("torch")
    w = {name: torch.from_numpy(array).double() for name, array in data.arrays.items()}
    x = torch.nn.functional.layer_norm(w[X], w[X].shape[-1:], w["norm.weight"], w["norm.bias"], eps=1e-5)
    project = {
        name: torch.einsum("bijc,hc->bijh", x, w[f"{name}.weight"])
        for name in ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    }
    mask = w[MASK].unsqueeze(-1)
    left = project["left_proj"] * mask * project["left_gate"].sigmoid()
    right = project["right_proj"] * mask * project["right_gate"].sigmoid()
    o = torch.einsum("bikd,bjkd->bijd", left, right)
    o = torch.nn.functional.layer_norm(o, o.shape[-1:], w["to_out_norm.weight"], w["to_out_norm.bias"], eps=1e-5)
    found: np.ndarray = torch.einsum("bijh,ch->bijc", o * project["out_gate"].sigmoid(), w["to_out.weight"]).numpy()
    return found


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("cauchy", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_reference_agrees_with_a_float64_einsum(shape: Shape, cauchy: bool, masked: bool) -> None:
    data = inputs.make(Call(Case(shape, cauchy), masked, seed=5))
    exact = independent(data)
    scale = np.sqrt(np.mean(np.square(exact))) or 1.0
    assert np.max(np.abs(trimul(data, np.float64) - exact)) < 1e-6 * scale
    if shape.n > 1:  # of one place the contraction may be nearly constant, and its norm ill-conditioned
        assert compare(trimul(data, np.float32), exact, 0.02).relative_rms < 1e-5


def test_timed_calls_are_compared_with_float32_and_checks_with_float64() -> None:
    case = Case(Shape(1, 8, 16, 8))
    assert expected(Call(case, True, 1, timed=True)).dtype == np.float32
    assert expected(Call(case, True, 1, timed=False)).dtype == np.float64


def test_data_are_the_same_for_a_call_and_differ_between_calls(problem_recipe: Recipe) -> None:
    calls = [*problem_recipe.checks(), *problem_recipe.calls()]
    assert len({call.seed for call in calls}) == len(calls)
    first, again = inputs.make(calls[0]), inputs.make(calls[0])
    assert all(np.array_equal(first.arrays[name], again.arrays[name]) for name in first.arrays)


def test_masks_are_real_or_ones_and_cauchy_has_heavy_tails() -> None:
    shape = Shape(1, 48, 32, 16)
    masked, ones = (inputs.make(Call(Case(shape), kind, 3)).arrays[MASK] for kind in (True, False))
    assert set(np.unique(masked)) == {0.0, 1.0} and 0.4 < masked.mean() < 0.6
    assert np.all(ones == 1.0)
    normal, cauchy = (inputs.make(Call(Case(shape, kind), True, 3)).arrays[X] for kind in (False, True))
    assert np.abs(normal).max() < 7 < 100 < np.abs(cauchy).max() and np.isfinite(cauchy).all()


@pytest.mark.parametrize("shape", [*SMALL, *(case.shape for case in OFFICIAL)])
def test_arrays_lie_apart_in_memory(shape: Shape) -> None:
    places = sorted((start, start + int(np.prod(size))) for start, size in inputs.layout(shape).values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    assert places[-1][1] == inputs.floats(shape)
    assert inputs.layout(shape)[OUT][1] == (shape.batch, shape.n, shape.n, shape.dim)


@pytest.mark.parametrize("plan", ["embedded", "large", "ci", "official"])
def test_splits_share_no_seed_and_outside_ci_no_size(plan: Plan) -> None:
    by_split = {split: recipes("cpu", plan, split) for split in ("train", "gate", "test")}
    seeds = [recipe.seed for found in by_split.values() for recipe in found]
    assert len(set(seeds)) == len(seeds)
    if plan != "ci":
        sizes = [{case.shape for recipe in found for case in recipe.cases} for found in by_split.values()]
        assert not sizes[0] & sizes[1] and not sizes[0] & sizes[2] and not sizes[1] & sizes[2]


def test_official_list_matches_the_published_one() -> None:
    listed = [(case.shape.n, case.shape.batch, case.shape.dim, case.cauchy) for case in OFFICIAL]
    assert listed == [
        (256, 2, 128, False), (768, 1, 128, True), (256, 2, 384, False), (512, 1, 128, False), (1024, 1, 128, True),
        (768, 1, 384, False), (1024, 1, 384, False),
    ]  # fmt: skip
    assert Recipe("cuda", "official", "train", 0).cases == OFFICIAL


def test_half_of_the_timed_calls_have_a_real_mask(problem_recipe: Recipe) -> None:
    timed = [call.masked for call in problem_recipe.calls() if call.timed]
    assert timed.count(True) == timed.count(False) > 0


def test_checks_have_odd_sizes_that_no_list_names(problem_recipe: Recipe) -> None:
    sizes = [call.case.shape.n for call in problem_recipe.checks()]
    assert all(n % 2 for n in sizes)


def test_error_in_any_element_is_found() -> None:
    wanted = np.zeros((5, 7), np.float32)
    for place in ((0, 0), (4, 6)):
        found: Floats = wanted.copy()
        found[place] = 0.03
        assert compare(found, wanted, 0.02).tolerance_used == pytest.approx(1.5)
        found[place] = np.nan
        assert compare(found, wanted, 0.02).not_finite == 1


@pytest.fixture
def problem_recipe() -> Recipe:
    return Recipe("cpu", "ci", "train", 0)

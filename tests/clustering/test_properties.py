"""What must hold of clusters whatever the rows: Hypothesis looks for rows for which it does not."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.clustering import GaussianMixture
from shoal.clustering.kmeans import kmeans
from shoal.errors import UserError

METRICS = ("euclidean", "cosine")
quickly = settings(deadline=None, derandomize=True, max_examples=15)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@st.composite
def problems(draw, min_n=2):
    """Rows without ties, where k-means begins, and a generator for what is done to them."""
    n, d = draw(st.integers(min_n, 40)), draw(st.integers(1, 6))
    k = draw(st.integers(1, min(n, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clumps = rng.normal(size=(k, d)) * draw(st.sampled_from([0.0, 1.0, 10.0]))
    rows = clumps[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    # From rows of the data, or from anywhere: some clusters are then empty.
    start = rows[rng.choice(n, k, replace=False)] if draw(st.booleans()) else 5 * rng.normal(size=(k, d))
    return torch.from_numpy(rows), torch.from_numpy(start), rng


def rotation(rng, d):
    return torch.from_numpy(np.linalg.qr(rng.normal(size=(d, d)))[0])


def clustered(x, start, metric, **limits):
    return kmeans(x, len(start), generator=torch.Generator(), metric=metric, init=start, tol=0.0, **limits)


def inertia(found, metric):
    return float((found.distances if metric == "cosine" else found.distances.square()).sum())


@pytest.mark.parametrize("metric", METRICS)
@quickly
@given(problems())
def test_the_order_of_rows_does_not_matter(metric, problem):
    x, start, rng = problem
    order = torch.from_numpy(rng.permutation(len(x)))
    found, shuffled = clustered(x, start, metric), clustered(x[order], start, metric)
    torch.testing.assert_close(shuffled.labels, found.labels[order])
    torch.testing.assert_close(shuffled.centers, found.centers)
    torch.testing.assert_close(shuffled.distances, found.distances[order], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@quickly
@given(problems())
def test_centres_turn_with_the_rows(metric, problem):
    x, start, rng = problem
    turn = rotation(rng, x.shape[1])
    found, turned = clustered(x, start, metric), clustered(x @ turn, start @ turn, metric)
    torch.testing.assert_close(turned.labels, found.labels)
    torch.testing.assert_close(turned.centers, found.centers @ turn)


@quickly
@given(problems(), st.floats(-1e4, 1e4))
def test_centres_shift_with_the_rows(problem, by):
    x, start, _ = problem
    found, shifted = clustered(x, start, "euclidean"), clustered(x + by, start + by, "euclidean")
    torch.testing.assert_close(shifted.labels, found.labels)
    torch.testing.assert_close(shifted.centers, found.centers + by)


@quickly
@given(problems(), st.floats(-12, 12))
def test_centres_grow_with_the_rows(problem, power):
    x, start, _ = problem
    found, grown = clustered(x, start, "euclidean"), clustered(x * 10**power, start * 10**power, "euclidean")
    torch.testing.assert_close(grown.labels, found.labels)
    torch.testing.assert_close(grown.centers / 10**power, found.centers)
    torch.testing.assert_close(grown.distances / 10**power, found.distances)


@quickly
@given(problems(), st.floats(0, 12))
def test_lengths_do_not_matter_to_the_cosine(problem, power):
    x, start, rng = problem
    lengths, of_centers = (torch.from_numpy(10 ** rng.uniform(-power, power, (len(y), 1))) for y in (x, start))
    found, scaled = clustered(x, start, "cosine"), clustered(x * lengths, start * of_centers, "cosine")
    torch.testing.assert_close(scaled.labels, found.labels)
    torch.testing.assert_close(scaled.centers, found.centers)


@pytest.mark.parametrize("metric", METRICS)
@quickly
@given(problems())
def test_no_update_raises_the_inertia(metric, problem):
    x, start, _ = problem
    found = [inertia(clustered(x, start, metric, max_iter=m), metric) for m in range(1, 8)]
    assert all(after <= before * (1 + 1e-9) + 1e-12 for before, after in pairwise(found))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
@quickly
@given(problem=problems())
def test_low_precision_is_clustered_as_in_float32(metric, dtype, problem):
    x, start = (y.to(dtype) for y in problem[:2])
    found, same = clustered(x, start, metric), clustered(x.float(), start.float(), metric)
    torch.testing.assert_close(found.labels, same.labels)
    torch.testing.assert_close(found.centers, same.centers)


def mixed(x, start, kind, metric="euclidean", **limits):
    """A few updates, before rounding can decide when to stop."""
    given = {"means_init": start, "reg_covar": 0.01, "tol": 0.0, "max_iter": 4} | limits
    return GaussianMixture(len(start), covariance_type=kind, metric=metric, **given).fit(x)


def assert_like(model, other, means, x, moved):
    torch.testing.assert_close(model.weights_, other.weights_, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.means_, means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.predict_proba(moved), other.predict_proba(x), rtol=1e-5, atol=1e-5)
    assert model.lower_bound_ == pytest.approx(other.lower_bound_, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@quickly
@given(problem=problems())
def test_the_order_of_rows_does_not_matter_to_a_mixture(kind, metric, problem):
    x, start, rng = problem
    order = torch.from_numpy(rng.permutation(len(x)))
    found, shuffled = mixed(x, start, kind, metric), mixed(x[order], start, kind, metric)
    assert_like(shuffled, found, found.means_, x, x)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["full", "tied", "spherical"])
@quickly
@given(problem=problems())
def test_a_mixture_turns_with_the_rows(kind, metric, problem):
    x, start, rng = problem
    turn = rotation(rng, x.shape[1])
    found, turned = mixed(x, start, kind, metric), mixed(x @ turn, start @ turn, kind, metric)
    assert_like(turned, found, found.means_ @ turn, x, x @ turn)
    if kind != "spherical":
        torch.testing.assert_close(turned.covariances_, turn.T @ found.covariances_ @ turn, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@quickly
@given(problem=problems(), by=st.floats(-1e3, 1e3))
def test_a_mixture_shifts_with_the_rows(kind, problem, by):
    x, start, _ = problem
    found, shifted = mixed(x, start, kind), mixed(x + by, start + by, kind)
    assert_like(shifted, found, found.means_ + by, x, x + by)
    torch.testing.assert_close(shifted.covariances_, found.covariances_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@quickly
@given(problem=problems(), power=st.floats(-6, 6))
def test_lengths_do_not_matter_to_a_mixture_by_the_cosine(kind, problem, power):
    x, start, rng = problem
    scaled = x * torch.from_numpy(10 ** rng.uniform(-abs(power), abs(power), (len(x), 1)))
    found, other = mixed(x, start, kind, "cosine"), mixed(scaled, start, kind, "cosine")
    assert_like(other, found, found.means_, x, scaled)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@quickly
@given(problem=problems())
def test_no_update_that_is_taken_lowers_the_bound(kind, metric, problem):
    x, start, _ = problem
    bounds = [mixed(x, start, kind, metric, max_iter=m).lower_bound_ for m in range(1, 6)]
    assert bounds == sorted(bounds)


def both_ends(scale, dtype):
    """Two clumps of two rows each, that stand apart by distance and by direction."""
    rows = torch.tensor([[1.0, 0.1], [1.1, 0.1], [0.1, 1.0], [0.1, 1.1]], dtype=torch.float64)
    return (rows * scale).to(dtype)


MODERATE = [(5e4, torch.float16), (1e-4, torch.float16)]
EXTREME = [
    (1e30, torch.bfloat16),
    (1e-30, torch.bfloat16),
    (1e30, torch.float32),
    (1e-30, torch.float32),
    (1e200, torch.float64),
    (1e-200, torch.float64),
]


def outcome(call, *args, **settings):
    """What the call answers, or None where it refuses rows, though none is zero."""
    try:
        return call(*args, **settings)
    except UserError as error:
        if "is zero" in str(error):
            raise
        return None


@pytest.mark.parametrize(("scale", "dtype"), MODERATE + EXTREME)
@pytest.mark.parametrize("metric", METRICS)
def test_huge_and_tiny_rows_are_clustered_or_refused(metric, scale, dtype):
    x = both_ends(scale, dtype)
    found = outcome(kmeans, x, 2, generator=torch.Generator(), metric=metric, n_init=1)
    assert found is None or found.labels.tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("metric", "scale", "dtype"),
    [(metric, *which) for metric in METRICS for which in MODERATE + EXTREME],
)
def test_huge_and_tiny_rows_have_a_mixture_or_none(metric, scale, dtype):
    x = both_ends(scale, dtype)
    model = outcome(GaussianMixture(2, metric=metric, random_state=0).fit, x)
    if model is not None:
        assert torch.isfinite(model.score_samples(x)).all()
        # Tiny rows are one clump beside reg_covar.
        tiny = metric == "euclidean" and scale < 1
        assert tiny or model.predict(x).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])

"""No digit is lost without a word: numbers far from 0, groups far apart, whole numbers, one direction."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from tests.clustering.refusing import refused

from shoal.clustering import (
    TEMI,
    GaussianMixture,
    KMeans,
    MiniBatchKMeans,
    UMAPKMeans,
    nearest_neighbours,
    silhouette,
)
from shoal.clustering.inputs import drawn_features, features_from

FAR = 1_700_000_000
"""A time in seconds: float32 has steps of 128 there."""

GROUP = np.repeat(np.arange(4), 40)
SQUARE = np.array([[0, 0], [800, 0], [0, 800], [800, 800]])
WHOLE = (SQUARE[GROUP] + 100 * np.random.default_rng(0).normal(size=(160, 2))).round().astype(np.int64)
X = WHOLE / 100

ESTIMATORS = {
    "KMeans": KMeans(4, random_state=0),
    "MiniBatchKMeans": MiniBatchKMeans(4, random_state=0),
    "UMAPKMeans": UMAPKMeans(4, metric="euclidean", random_state=0),
    **{
        f"GaussianMixture {kind}": GaussianMixture(4, covariance_type=kind, random_state=0)
        for kind in ("full", "tied", "diag", "spherical")
    },
}
KINDS = {
    "float64": lambda: X + FAR,
    "float64 tensor": lambda: torch.from_numpy(X + FAR),
    "int64": lambda: WHOLE + 100 * FAR,
    "int64 tensor": lambda: torch.from_numpy(WHOLE + 100 * FAR),
    "uint32": lambda: (WHOLE + FAR).astype(np.uint32),
}


@pytest.mark.usefixtures("no_umap")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_estimators_of_rows_far_from_0(estimator, kind):
    x = KINDS[kind]()
    labels = np.asarray(estimator.fit(x).labels_)
    assert adjusted_rand_score(GROUP, labels) > 0.9
    np.testing.assert_array_equal(np.asarray(estimator.predict(x)), labels)


def test_temi_of_rows_far_from_0():
    near, far = (TEMI(4, metric="euclidean", n_heads=1, epochs=10, random_state=0).fit(x) for x in (X, X + FAR))
    assert adjusted_rand_score(near.labels_, far.labels_) > 0.9
    np.testing.assert_array_equal(far.predict(X + FAR), far.labels_)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("estimator", [KMeans(3, random_state=0), MiniBatchKMeans(3, random_state=0)])
def test_whole_numbers_of_a_tensor_are_those_of_an_array(estimator, metric):
    x = np.random.default_rng(0).integers(1, 9, (50, 3))
    estimator.set_params(metric=metric)
    one, other = (estimator.fit(given).cluster_centers_ for given in (x, torch.from_numpy(x)))
    np.testing.assert_array_equal(one, other.numpy())


def test_whole_centres_far_from_0():
    start = SQUARE + 100 * FAR
    found = KMeans(4, init=start).fit(WHOLE + 100 * FAR)
    np.testing.assert_array_equal(found.labels_, GROUP)


@pytest.mark.parametrize("read", [features_from, KMeans(2).fit, MiniBatchKMeans(2).fit])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_times_in_nanoseconds_are_refused_where_float64_cannot_tell_them_apart(read, kind):
    times = np.array([[0, 1], [20, 1], [500, 1]], dtype=np.int64) + 10**9 * FAR
    refused(read, kind(times), match=f"from {10**9 * FAR} to {10**9 * FAR + 500}, which float64 cannot tell apart")
    spread = np.array([[0, 1], [2**40, 1], [2**42, 1]], dtype=np.int64) + 10**9 * FAR
    read(kind(spread))  # the steps of 256 are small beside these differences


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", ["float64", "int64 tensor"])
def test_neighbours_of_rows_far_from_0(kind, asked):
    near, far = torch.from_numpy(X if kind == "float64" else WHOLE), KINDS[kind]()
    index, distances = nearest_neighbours(far, 5, "euclidean", far[:30] if asked else None)
    _, expected = nearest_neighbours(near, 5, "euclidean", near[:30] if asked else None)
    assert isinstance(index, type(far))
    np.testing.assert_allclose(np.asarray(distances), expected.numpy(), atol=1e-5)


def test_silhouettes_of_rows_far_from_0():
    assert silhouette(X + FAR, GROUP, metric="euclidean") == pytest.approx(silhouette(X, GROUP, metric="euclidean"))


def test_groups_within_groups_that_are_far_apart():
    """Products of such coordinates do not have the digits that tell the inner groups apart, even in float64."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 50)
    x = np.array([[0, 0], [6, 0], [1e8, 0], [1e8 + 6, 0]])[group] + 0.5 * generator.normal(size=(200, 2))
    for estimator in (KMeans(4, random_state=0), GaussianMixture(4, covariance_type="diag", random_state=0)):
        assert adjusted_rand_score(group, estimator.fit(x).labels_) == 1


@pytest.mark.parametrize("far", [1e4, 1e8, 1e10])
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixtures_keep_the_variances_of_components_far_apart(kind, far):
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 200)
    away = generator.normal(size=(600, 2)) * np.array([0.5, 1, 2])[group, None]
    x = np.array([[0, 0], [far, 0], [0, far]])[group] + away
    model = GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)
    exact = x - np.stack([x[group == j].mean(0) for j in range(3)])[group]  # as x holds them, steps of 2e-6 at 1e10
    expected = [(exact[group == j] ** 2).mean() for j in range(3)]
    of_kind = {
        "full": lambda v: np.trace(v, axis1=1, axis2=2) / 2,
        "tied": lambda v: np.atleast_1d(np.trace(v) / 2),
        "diag": lambda v: v.mean(1),
        "spherical": lambda v: v,
    }[kind](model.covariances_)
    np.testing.assert_allclose(np.sort(of_kind), [np.mean(expected)] if kind == "tied" else expected, rtol=1e-3)
    assert adjusted_rand_score(group, model.predict(x)) == 1
    assert model.predict_proba(x).max(1).min() > 0.999


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_multiples_of_a_few_rows_are_as_many_clusters_under_the_cosine(dtype):
    generator = np.random.default_rng(0)
    directions = np.array([[1.1, 2.3, 3.7], [3.0, -1.0, 0.7], [-1.0, 0.3, 2.0]])
    x = (generator.uniform(1, 9, (90, 1)) * directions[np.arange(90) % 3]).astype(dtype)
    for estimator in (KMeans(7, metric="cosine", random_state=0), MiniBatchKMeans(7, metric="cosine", random_state=0)):
        with pytest.warns(match=r"Number of distinct clusters \(3\) found smaller than n_clusters \(7\)"):
            labels = estimator.fit(x).labels_
        assert adjusted_rand_score(np.arange(90) % 3, labels) == 1
        np.testing.assert_array_equal(estimator.predict(x), labels)


def test_narrow_clusters_under_the_cosine_are_told_apart():
    generator = np.random.default_rng(0)
    group = np.arange(90) % 3
    x = np.ones((90, 8)) + 1e-4 * np.eye(8)[group] + 1e-6 * generator.normal(size=(90, 8))
    assert adjusted_rand_score(group, KMeans(3, metric="cosine", random_state=0).fit(x.astype(np.float32)).labels_) == 1


def test_drawn_rows_are_read_from_a_map_alone(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(60_000, dtype=np.float16).reshape(-1, 2) % 100)
    mapped = np.load(path, mmap_mode="r")
    drawn = drawn_features(mapped, 100, torch.Generator().manual_seed(0))
    assert (drawn.shape, drawn.dtype) == ((100, 2), torch.float16)
    same = drawn_features(torch.from_numpy(np.array(mapped)), 100, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, same)
    assert torch.equal(drawn_features(mapped[:50], 100, torch.Generator()), torch.from_numpy(np.array(mapped[:50])))

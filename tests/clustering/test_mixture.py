"""Gaussian mixtures: scikit-learn's answers, the corners, the scikit-learn face."""

import warnings
from typing import get_args

import numpy as np
import pytest
import sklearn.mixture
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator
from tests.clustering.refusing import refused

from shoal.clustering import GaussianMixture
from shoal.clustering.kmeans import kmeans
from shoal.clustering.mixtures.em import CovarianceType
from shoal.clustering.rows import Rows
from shoal.errors import UserError

KINDS = get_args(CovarianceType)
K, D = 4, 5
of_every_kind = pytest.mark.parametrize("kind", KINDS)


def overlapping() -> np.ndarray:
    """Blobs stretched and turned by one matrix, close enough that EM moves them."""
    rng = np.random.default_rng(0)
    points, _ = make_blobs(400, D, centers=K, cluster_std=2.5, random_state=3)
    return points @ rng.normal(size=(D, D)) + 20


X = overlapping()


def centers() -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return kmeans(torch.from_numpy(X), K, generator=generator, metric="euclidean", tol=0.0).centers.numpy()


def peer(kind: str, **settings) -> sklearn.mixture.GaussianMixture:
    """scikit-learn's mixture, beginning at the clusters of the same centres."""
    means = centers()
    labels = ((X[:, None] - means) ** 2).sum(-1).argmin(1)
    own = [X[labels == j] for j in range(K)]
    weights = np.array([len(x) for x in own]) / len(X)
    full = np.stack([np.cov(x.T, bias=True) for x in own])
    diag = np.diagonal(full, axis1=1, axis2=2)
    covariances = {"full": full, "tied": np.tensordot(weights, full, 1), "diag": diag, "spherical": diag.mean(1)}[kind]
    matrix = kind in ("full", "tied")
    start = np.linalg.inv(covariances + 1e-6 * np.eye(D)) if matrix else 1 / (covariances + 1e-6)
    return sklearn.mixture.GaussianMixture(
        K, covariance_type=kind, weights_init=weights, means_init=means, precisions_init=start, **settings
    )


@of_every_kind
def test_converges_to_scikit_learns_mixture(kind):
    theirs = peer(kind, tol=1e-12, max_iter=3000).fit(X)
    ours = GaussianMixture(K, covariance_type=kind, means_init=centers(), tol=1e-12, max_iter=3000).fit(X)
    assert ours.converged_
    assert ours.n_iter_ > 10
    for name in ("means_", "covariances_", "weights_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


@of_every_kind
def test_update_by_update_it_is_scikit_learns_run(kind):
    with pytest.warns(ConvergenceWarning):
        theirs = peer(kind, tol=0.0, max_iter=7).fit(X)
    with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge"):
        ours = GaussianMixture(K, covariance_type=kind, means_init=centers(), tol=0.0, max_iter=8).fit(X)
    for name in ("means_", "covariances_", "weights_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-8)
    for name in ("predict", "predict_proba", "score_samples", "score", "bic", "aic"):
        np.testing.assert_allclose(getattr(ours, name)(X), getattr(theirs, name)(X), rtol=1e-8, atol=1e-10)


@of_every_kind
def test_the_bound_is_the_score_and_no_update_lowers_it(kind):
    bounds = []
    for max_iter in range(1, 12):
        model = GaussianMixture(K, covariance_type=kind, means_init=centers(), tol=0.0, max_iter=max_iter)
        with pytest.warns(ConvergenceWarning):
            model.fit(X)
        assert model.lower_bound_ == pytest.approx(model.score(X), abs=1e-12)
        assert (model.n_iter_, model.converged_) == (max_iter, False)
        bounds.append(model.lower_bound_)
    assert bounds == sorted(bounds)


@of_every_kind
def test_chunks_make_no_difference(kind, monkeypatch):
    whole = GaussianMixture(K, covariance_type=kind, means_init=centers()).fit(X)
    parts = [slice(start, start + 7) for start in range(0, len(X), 7)]
    monkeypatch.setattr(Rows, "chunks", lambda rows, _: ((part, rows[part]) for part in parts))
    chunked = clone(whole).fit(X)
    np.testing.assert_allclose(chunked.covariances_, whole.covariances_, rtol=1e-9)
    np.testing.assert_array_equal(chunked.predict(X), whole.predict(X))
    np.testing.assert_allclose(chunked.score_samples(X), whole.score_samples(X), rtol=1e-9)


@of_every_kind
def test_far_from_the_origin_in_float32(kind):
    settings = {"covariance_type": kind, "tol": 1e-6, "max_iter": 1000}
    near = GaussianMixture(K, means_init=centers(), **settings).fit(X)
    far = torch.from_numpy(X).float() + 4096
    moved = GaussianMixture(K, means_init=centers() + 4096, **settings).fit(far)
    np.testing.assert_allclose(moved.means_.numpy() - 4096, near.means_, atol=0.05)
    assert moved.lower_bound_ == pytest.approx(near.lower_bound_, abs=1e-3)


@of_every_kind
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("offset", [0, 1e4])
def test_constant_columns_and_duplicates_give_no_nan(kind, offset):
    rows = np.repeat(np.array([[0.0, 5.0, 1.0], [3.0, 5.0, 1.0], [3.0, 5.0, 8.0]]), 5, 0) + offset
    for k in (1, 3, 6):
        model = GaussianMixture(k, covariance_type=kind, random_state=0).fit(rows)
        shares = model.predict_proba(rows)
        for values in (model.means_, model.covariances_, model.weights_, model.score_samples(rows)):
            assert np.isfinite(values).all()
        np.testing.assert_allclose(shares.sum(1), 1)
        assert model.weights_.sum() == pytest.approx(1)
        if k >= 3:
            assert len(np.unique(model.predict(rows))) == 3


@of_every_kind
def test_a_component_without_rows_keeps_its_mean(kind):
    means = np.concatenate([centers(), np.full((1, D), 1e6)])
    model = GaussianMixture(K + 1, covariance_type=kind, means_init=means).fit(X)
    np.testing.assert_allclose(model.means_[-1], 1e6)
    assert model.weights_[-1] < 1e-12
    assert np.isfinite(model.score_samples(X)).all()


def test_of_several_runs_the_best_is_kept():
    runs = [GaussianMixture(8, n_init=n, random_state=0).fit(X).lower_bound_ for n in (1, 2, 5)]
    assert runs == sorted(runs)
    assert runs[-1] > runs[0]


def test_random_state_repeats_and_clone_keeps_parameters():
    model = GaussianMixture(K, covariance_type="diag", random_state=7)
    again = clone(model)
    np.testing.assert_array_equal(model.fit_predict(X), again.fit(X).predict(X))
    assert again.get_params() == model.get_params()


def test_what_comes_in_decides_what_comes_out():
    tensor = torch.from_numpy(X).float()
    from_array, from_tensor = (GaussianMixture(K, random_state=0).fit(x) for x in (tensor.numpy(), tensor))
    for name in ("means_", "covariances_", "weights_"):
        array, values = getattr(from_array, name), getattr(from_tensor, name)
        assert isinstance(array, np.ndarray)
        assert values.dtype == torch.float64
        np.testing.assert_array_equal(array, values.numpy())
    assert from_tensor.predict_proba(tensor).dtype == from_tensor.score_samples(tensor).dtype == torch.float32
    assert from_tensor.predict_proba(tensor.half()).dtype == torch.float32
    assert from_tensor.predict_proba(X).dtype == np.float64
    assert from_array.predict(tensor).dtype == torch.int64
    assert from_tensor.predict(tensor[:0]).shape == (0,)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning", "ignore:Number of distinct clusters")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@of_every_kind
def test_scikit_learns_checks(kind, metric):
    # The rows of that check hold zeros, which have no direction.
    expected = {"check_estimators_dtypes": "zero rows"} if metric == "cosine" else {}
    model = GaussianMixture(covariance_type=kind, metric=metric)
    results = check_estimator(model, expected_failed_checks=expected)
    assert len(results) > 40
    assert sum(result["status"] == "passed" for result in results) >= len(results) - 1 - len(expected)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("settings", "data", "sentence"),
    [
        ({"metric": "manhattan"}, X, "no metric 'manhattan': give one of euclidean, cosine"),
        ({"metric": "cosine"}, torch.eye(3, 2), "a row of features is zero and has no cosine"),
        ({"metric": "cosine", "means_init": X[:1] * 0}, X, "means_init holds .* a zero row"),
        ({"means_init": [["a"] * 5]}, X, "means_init is not an array of numbers .*: give one row for each cluster"),
        ({"means_init": [[1], [1, 2]]}, X, "means_init is not an array of numbers"),
        ({"means_init": X[:1] + 0j}, X, "means_init holds .*complex128 .*: give real numbers"),
        ({}, X * 1e200, "rows of features are so far apart that their squared distances overflow in torch.float64"),
        ({}, (X * 1e20).astype(np.float32), "overflow in torch.float32: divide them all by a constant"),
        ({"covariance_type": "round"}, X, "no covariance_type 'round': give one of full, tied, diag, spherical"),
        ({"n_components": 0}, X, "n_components=0 must be a whole number"),
        ({"n_components": 401}, X, r"n_components=401 is more than there are rows: n_samples=400"),
        ({}, torch.zeros(0, 3), "n_samples=0 should be >= n_components=1"),
        ({}, np.zeros((0, 3)), r"0 sample\(s\)"),
        ({}, torch.full((3, 2), torch.nan), "3 of 3 rows of features hold NaN or infinity"),
        ({}, torch.tensor([[0.0], [torch.inf]]), "1 of 2 rows of features hold NaN or infinity"),
        ({}, np.full((3, 2), np.nan), "3 of 3 rows of features hold NaN or infinity"),
        ({}, np.full((3, 2), np.inf), "3 of 3 rows of features hold NaN or infinity"),
        ({"n_init": 0}, X, "n_init=0"),
        ({"tol": -1.0}, X, "tol=-1.0 must not be negative"),
        ({"means_init": X[:2]}, X, r"\'means\' should have the shape of \(1, 5\), but got \(2, 5\)"),
        ({"means_init": X[:1] * np.nan}, X, "means_init holds NaN"),
        ({"reg_covar": 0.0}, np.ones((9, 2)), "ill-defined empirical covariance .* increase reg_covar"),
        ({"reg_covar": 0.0, "covariance_type": "diag"}, np.ones((9, 2)), "ill-defined empirical covariance"),
    ],
)
def test_mistakes(settings, data, sentence):
    with pytest.raises(UserError, match=sentence):
        GaussianMixture(**settings).fit(data)


def test_predict_before_fit_and_on_other_features():
    with pytest.raises(NotFittedError):
        GaussianMixture(3).predict(torch.zeros(3, 2))
    model = GaussianMixture(3, random_state=0).fit(torch.from_numpy(X))
    with pytest.raises(UserError, match="X has 2 features, but GaussianMixture was fitted on 5"):
        model.predict(torch.zeros(3, 2))
    with pytest.raises(UserError, match="1 of 2 rows of features hold NaN"):
        model.score(torch.tensor([[0.0] * D, [torch.nan] * D]))


@of_every_kind
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu(kind):
    x = torch.from_numpy(X)
    model = GaussianMixture(K, covariance_type=kind, means_init=centers(), tol=1e-6, max_iter=1000)
    on_cpu, on_gpu = clone(model).fit(x), clone(model).fit(x.cuda())
    assert on_gpu.means_.is_cuda
    np.testing.assert_allclose(on_gpu.means_.cpu().numpy(), on_cpu.means_.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(on_gpu.predict_proba(X), on_cpu.predict_proba(X), atol=1e-6)


@of_every_kind
@pytest.mark.parametrize("tensor", [False, True])
def test_precisions_are_inverse_covariances(kind, tensor):
    model = GaussianMixture(3, covariance_type=kind, random_state=0).fit(torch.from_numpy(X) if tensor else X)
    assert isinstance(model.precisions_, type(model.means_))
    precisions, factors, covariances = (
        np.asarray(each) for each in (model.precisions_, model.precisions_cholesky_, model.covariances_)
    )
    if kind in ("full", "tied"):
        np.testing.assert_allclose(
            precisions @ covariances, np.broadcast_to(np.eye(X.shape[1]), covariances.shape), atol=1e-8
        )
        np.testing.assert_allclose(factors @ factors.swapaxes(-1, -2), precisions, rtol=1e-6, atol=1e-10)
    else:
        np.testing.assert_allclose(precisions * covariances, 1)
        np.testing.assert_allclose(factors**2, precisions)


@of_every_kind
def test_rows_that_are_drawn_have_the_mixtures_moments(kind):
    model = GaussianMixture(2, covariance_type=kind, random_state=0).fit(X)
    rows, labels = model.sample(40_000)
    d = X.shape[1]
    covariances = {
        "full": lambda v: v,
        "tied": lambda v: np.broadcast_to(v, (2, d, d)),
        "diag": lambda v: np.stack([np.diag(each) for each in v]),
        "spherical": lambda v: v[:, None, None] * np.eye(d),
    }[kind](model.covariances_)
    for j, (mean, covariance) in enumerate(zip(model.means_, covariances, strict=True)):
        np.testing.assert_allclose(rows[labels == j].mean(0), mean, atol=0.04 * covariance.max() ** 0.5)
        np.testing.assert_allclose(np.cov(rows[labels == j].T), covariance, atol=0.04 * covariance.max())
    np.testing.assert_allclose(np.bincount(labels) / 40_000, model.weights_, atol=0.01)
    refused(model.sample, 0, match="Invalid value for 'n_samples'")


@of_every_kind
def test_a_mixture_that_is_given_whole_is_where_it_starts(kind):
    found = GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    given = {"weights_init": found.weights_, "means_init": found.means_, "precisions_init": found.precisions_}
    same = GaussianMixture(3, covariance_type=kind, max_iter=0, **given).fit(X)
    np.testing.assert_allclose(same.covariances_, found.covariances_, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(same.score(X), found.lower_bound_)
    assert len(GaussianMixture(3, covariance_type=kind, **given).fit(X).lower_bounds_) == 2


@pytest.mark.parametrize("init_params", ["k-means++", "random", "random_from_data"])
def test_other_starts(init_params, capsys):
    model = GaussianMixture(2, init_params=init_params, n_init=3, verbose=1, random_state=0).fit(X)
    assert model.converged_
    assert (
        model.lower_bound_ == GaussianMixture(2, init_params=init_params, n_init=3, random_state=0).fit(X).lower_bound_
    )
    assert capsys.readouterr().out.count("Initialization converged after") == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weights_init": [0.5]}, r"'weights' should have the shape of \(2,\)"),
        ({"weights_init": [1.5, -0.5]}, r"range \[0, 1\], but goes from -0.5"),
        ({"weights_init": [0.5, 0.4]}, r"sum\(weights\) = 0.9"),
        (
            {"precisions_init": np.ones(3), "covariance_type": "spherical"},
            r"'spherical precision' should have the shape",
        ),
        ({"precisions_init": -np.ones(2), "covariance_type": "spherical"}, "should be positive"),
        ({"precisions_init": np.zeros((X.shape[1],) * 2), "covariance_type": "tied"}, "positive-definite"),
        ({"init_params": "best"}, "no init_params 'best'"),
        ({"max_iter": -1}, "max_iter=-1"),
    ],
)
def test_starts_that_are_none(settings, sentence):
    refused(GaussianMixture(2, **settings).fit, X, match=sentence)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_warm_fits_of_one_update_come_to_the_mixture_of_a_single_fit(kind, metric):
    given = {"covariance_type": kind, "metric": metric, "means_init": centers(), "tol": 1e-5}
    whole = GaussianMixture(K, **given).fit(X)
    assert whole.converged_
    step = GaussianMixture(K, **given, max_iter=1, warm_start=True)
    bounds = []
    for _ in range(whole.n_iter_):
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            bounds.append(step.fit(X).lower_bound_)
    assert (step.converged_, step.n_iter_) == (True, 1)
    np.testing.assert_allclose(bounds[:-1], whole.lower_bounds_[:-1], rtol=1e-9)
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(step, name), getattr(whole, name), rtol=1e-7, atol=1e-9)
    assert step.lower_bound_ == pytest.approx(step.score(X), abs=1e-6)


def test_a_warm_start_needs_a_mixture_of_the_same_shapes():
    model = GaussianMixture(K, warm_start=True, random_state=0).fit(X)
    assert model.fit(X[:100]).lower_bound_ == pytest.approx(model.score(X[:100]), abs=1e-6)
    with pytest.raises(UserError, match=r"warm_start=True continues from a mixture .*set warm_start=False"):
        model.set_params(n_components=K + 1).fit(X)
    with pytest.raises(UserError, match="covariances"):
        model.set_params(n_components=K, covariance_type="diag").fit(X)

"""Gaussian mixtures of directions: the published run, and what holds of means at unit length."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize

from shoal.clustering import GaussianMixture
from shoal.clustering.kmeans import kmeans
from shoal.clustering.mixtures.em import CovarianceType
from shoal.errors import UserError

K, D = 4, 5
of_every_kind = pytest.mark.parametrize("kind", get_args(CovarianceType))


def directions() -> np.ndarray:
    """Rows of any length around four directions, close enough that EM moves them."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(K, D))[rng.integers(K, size=400)] + 0.7 * rng.normal(size=(400, D))
    return rows * rng.uniform(0.1, 10, (400, 1))


X = directions()
UNIT = normalize(X)
START = kmeans(torch.from_numpy(X), K, generator=torch.Generator(), metric="cosine", tol=0.0).centers.numpy()


def about(means, shares, kind, reg=1e-6):
    """Covariances about given means, from differences, a row at a time."""
    counts = shares.sum(0)
    away = UNIT[:, None] - means
    full = np.einsum("nk,nki,nkj->kij", shares, away, away) / counts[:, None, None]
    diag = np.diagonal(full, axis1=1, axis2=2)
    tied = np.tensordot(counts / len(UNIT), full, 1)
    return {
        "full": full + reg * np.eye(D),
        "tied": tied + reg * np.eye(D),
        "diag": diag + reg,
        "spherical": diag.mean(1) + reg,
    }[kind]


def matrices(covariances, kind):
    if kind == "tied":
        return [covariances] * K
    return covariances if kind == "full" else [np.diag(np.broadcast_to(v, D)) for v in covariances]


def published(kind, updates):
    """The published steps: rows and means at unit length, covariances about the means so moved."""
    shares = np.eye(K)[(UNIT @ START.T).argmax(1)]
    for step in range(updates + 1):
        weights = shares.mean(0)
        means = START if step == 0 else normalize(shares.T @ UNIT)
        covariances = about(means, shares, kind)
        sizes = matrices(covariances, kind)
        joint = np.stack([weights[j] * multivariate_normal(means[j], sizes[j]).pdf(UNIT) for j in range(K)], 1)
        shares = joint / joint.sum(1, keepdims=True)
    return weights, means, covariances, shares, np.log(joint.sum(1)).mean()


@of_every_kind
@pytest.mark.parametrize("updates", [0, 1])
def test_update_by_update_it_is_the_published_run(kind, updates):
    model = GaussianMixture(K, metric="cosine", covariance_type=kind, means_init=START, tol=0.0, max_iter=updates + 1)
    with pytest.warns(ConvergenceWarning):
        model.fit(X)
    weights, means, covariances, shares, bound = published(kind, updates)
    np.testing.assert_allclose(model.weights_, weights, atol=1e-9)
    np.testing.assert_allclose(model.means_, means, atol=1e-9)
    np.testing.assert_allclose(model.covariances_, covariances, atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), shares, atol=1e-7)
    assert model.lower_bound_ == pytest.approx(bound, abs=1e-8)


def test_spherical_ends_at_the_published_mixture():
    model = GaussianMixture(
        K, metric="cosine", covariance_type="spherical", means_init=START, tol=1e-13, max_iter=1000
    ).fit(X)
    assert model.converged_
    assert model.n_iter_ > 10
    weights, means, covariances, _, bound = published("spherical", 400)
    np.testing.assert_allclose(model.weights_, weights, atol=1e-4)
    np.testing.assert_allclose(model.means_, means, atol=1e-4)
    np.testing.assert_allclose(model.covariances_, covariances, atol=1e-5)
    assert model.lower_bound_ == pytest.approx(bound, abs=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@of_every_kind
def test_the_bound_is_the_score_and_no_update_that_is_taken_lowers_it(kind):
    model = GaussianMixture(K, metric="cosine", covariance_type=kind, means_init=START, tol=0.0)
    bounds = []
    for max_iter in range(1, 12):
        fitted = clone(model).set_params(max_iter=max_iter).fit(X)
        assert fitted.lower_bound_ == pytest.approx(fitted.score(X), abs=1e-12)
        bounds.append(fitted.lower_bound_)
    assert bounds == sorted(bounds)
    if kind == "spherical":  # whose updates never lower it
        assert len(set(bounds)) == len(bounds)


@of_every_kind
def test_means_are_unit_and_lengths_of_rows_do_not_matter(kind):
    model = GaussianMixture(K, metric="cosine", covariance_type=kind, random_state=0)
    of_rows, of_directions = clone(model).fit(X), clone(model).fit(UNIT)
    np.testing.assert_allclose(np.linalg.norm(of_rows.means_, axis=1), 1)
    np.testing.assert_allclose(of_rows.means_, of_directions.means_, atol=1e-9)
    np.testing.assert_allclose(of_rows.score_samples(X), of_rows.score_samples(UNIT), atol=1e-9)
    np.testing.assert_array_equal(of_rows.predict(X), of_directions.predict(UNIT))


def test_free_parameters_of_unit_means():
    for kind, covariances in {"full": K * 15, "tied": 15, "diag": K * D, "spherical": K}.items():
        model = GaussianMixture(K, metric="cosine", covariance_type=kind, random_state=0).fit(X)
        n_parameters = K * (D - 1) + covariances + K - 1
        assert model.aic(X) == pytest.approx(-2 * len(X) * model.score(X) + 2 * n_parameters)


def test_directions_that_cancel_keep_a_unit_mean():
    model = GaussianMixture(1, metric="cosine", covariance_type="spherical").fit(np.array([[3.0, 0.0], [-1.0, 0.0]]))
    assert np.linalg.norm(model.means_) == pytest.approx(1)


def test_zero_rows_have_no_component():
    model = GaussianMixture(K, metric="cosine", random_state=0).fit(X)
    for method in (model.predict, model.predict_proba, model.score_samples, model.score):
        with pytest.raises(UserError, match="a row of features is zero and has no cosine"):
            method(np.eye(6, D))

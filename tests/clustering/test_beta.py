"""Mixtures of two beta distributions: scipy's density, a naive numpy run, known parameters, the corners."""

import numpy as np
import pytest
import torch
from scipy.stats import beta
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from shoal.clustering import BetaMixture
from shoal.errors import UserError

ALPHAS, BETAS, SHARES = (2.0, 8.0), (10.0, 3.0), (0.7, 0.3)


def drawn(n=20_000, alphas=ALPHAS, betas=BETAS, shares=SHARES, seed=0):
    """Values of two beta distributions, the lower first, and of which each is."""
    rng = np.random.default_rng(seed)
    counts = np.round(np.array(shares) * n).astype(int)
    values = [rng.beta(a, b, m) for a, b, m in zip(alphas, betas, counts, strict=True)]
    return np.concatenate(values), np.repeat([0, 1], counts)


def skewed_losses():
    """Losses of clean labels all but zero, those of noisy ones around five, scaled to [0, 1]."""
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.exponential(0.05, 14_000), rng.gamma(5.0, 1.0, 6_000)])
    return (losses - losses.min()) / (losses.max() - losses.min()), np.repeat([0, 1], [14_000, 6_000])


def naive(x, updates):
    """The published run, with densities and not their logarithms, a component at a time."""
    x = np.clip(x, 1e-4, 1 - 1e-4)
    a, b, w = [1.0, 2.0], [2.0, 1.0], [0.5, 0.5]
    for _ in range(updates):
        parts = np.array([w[j] * beta.pdf(x, a[j], b[j]) for j in range(2)])
        shares = parts / parts.sum(0)
        for j in range(2):
            mean = (shares[j] * x).sum() / shares[j].sum()
            variance = (shares[j] * (x - mean) ** 2).sum() / shares[j].sum()
            a[j] = mean * (mean * (1 - mean) / variance - 1)
            b[j] = a[j] * (1 - mean) / mean
        w = shares.sum(1) / len(x)
    parts = np.array([w[j] * beta.pdf(x, a[j], b[j]) for j in range(2)])
    return np.array(a), np.array(b), w, (parts / parts.sum(0)).T, np.log(parts.sum(0)).mean()


def fitted_after(x, max_iter):
    with pytest.warns(ConvergenceWarning, match=f"tol=0.0 after max_iter={max_iter}: raise either"):
        return BetaMixture(max_iter=max_iter, tol=0.0).fit(x)


@pytest.mark.parametrize("updates", [0, 2, 40])
@pytest.mark.parametrize("x", [drawn(2000)[0], np.linspace(0, 1, 301) ** 3], ids=["drawn", "with 0 and 1"])
def test_update_by_update_it_is_the_naive_run(x, updates):
    model = fitted_after(x, updates + 1)
    alphas, betas, weights, shares, bound = naive(x, updates)
    np.testing.assert_allclose(model.alphas_, alphas, rtol=1e-8)
    np.testing.assert_allclose(model.betas_, betas, rtol=1e-8)
    np.testing.assert_allclose(model.weights_, weights, rtol=1e-8)
    np.testing.assert_allclose(model.predict_proba(x), shares, atol=1e-8)
    assert model.lower_bound_ == pytest.approx(bound, abs=1e-10)
    assert (model.n_iter_, model.converged_) == (updates + 1, False)


@pytest.mark.parametrize(
    ("alphas", "betas", "shares"),
    [
        (ALPHAS, BETAS, SHARES),
        ((3.0, 30.0), (30.0, 3.0), (0.1, 0.9)),
    ],
)
def test_known_parameters_are_recovered(alphas, betas, shares):
    x, truth = drawn(alphas=alphas, betas=betas, shares=shares)
    model = BetaMixture().fit(x)
    assert model.converged_
    np.testing.assert_allclose(model.alphas_, alphas, rtol=0.1)
    np.testing.assert_allclose(model.betas_, betas, rtol=0.1)
    np.testing.assert_allclose(model.weights_, shares, atol=0.02)
    true_parts = [w * beta.pdf(x, a, b) for a, b, w in zip(alphas, betas, shares, strict=True)]
    assert (model.predict(x) == truth).mean() > (np.argmax(true_parts, 0) == truth).mean() - 0.005


def test_densities_are_scipys():
    x, _ = drawn(3000)
    model = BetaMixture().fit(x)
    grid = np.linspace(0.001, 0.999, 500)
    parts = model.weights_ * beta.pdf(grid[:, None], model.alphas_, model.betas_)
    np.testing.assert_allclose(model.score_samples(grid), np.log(parts.sum(1)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(grid), parts / parts.sum(1, keepdims=True), atol=1e-12)
    np.testing.assert_array_equal(model.predict(grid), parts.argmax(1))
    assert model.score(grid) == pytest.approx(np.log(parts.sum(1)).mean())
    assert model.lower_bound_ == pytest.approx(model.score(x), abs=1e-12)
    ends, near_them = np.array([0.0, 1.0]), np.array([1e-4, 1 - 1e-4])
    np.testing.assert_array_equal(model.score_samples(ends), model.score_samples(near_them))


def test_updates_raise_the_likelihood_of_beta_distributed_values():
    x, _ = drawn(5000)
    bounds = [fitted_after(x, max_iter).lower_bound_ for max_iter in range(1, 40, 6)]
    assert np.diff(bounds).min() > -1e-9
    assert bounds[0] == pytest.approx(0, abs=1e-12)  # the two distributions it begins with make the uniform one
    assert bounds[-1] > 0.3


def test_losses_unlike_any_beta_are_told_apart_though_their_likelihood_falls():
    x, truth = skewed_losses()
    early, late = fitted_after(x, 2), BetaMixture().fit(x)
    assert late.converged_
    assert late.lower_bound_ < early.lower_bound_ - 0.1
    assert (early.predict(x) == truth).mean() < 0.75
    assert (late.predict(x) == truth).mean() > 0.98


def test_component_1_has_the_larger_mean_though_the_run_began_the_other_way_round():
    x = np.array([0.449, 0.632, 0.709, 0.761, 0.821, 0.844, 0.847, 0.864, 0.994])
    alphas, betas, *_ = naive(x, 1000)
    assert np.diff(alphas / (alphas + betas)) < -0.1  # the narrow peak within the wide one is the first here
    model = BetaMixture(tol=1e-12, max_iter=5000).fit(x)
    np.testing.assert_allclose(model.alphas_, alphas[::-1], rtol=1e-4)
    np.testing.assert_allclose(model.betas_, betas[::-1], rtol=1e-4)
    assert model.predict(np.array([0.3, 0.84])).tolist() == [0, 1]


CORNERS = {
    "one value": np.array([0.3]),
    "one zero": np.array([0.0]),
    "two values": np.array([0.2, 0.9]),
    "two ends": np.array([0.0, 1.0]),
    "all 0": np.zeros(50),
    "all 1": np.ones(50),
    "all the same": np.full(50, 0.37),
    "two spikes": np.repeat([0.25, 0.75], [90, 10]),
    "ends alone": np.repeat([0.0, 1.0], [90, 10]),
    "a spike at 0": np.concatenate([np.zeros(500), np.linspace(0.2, 0.9, 100)]),
    "all low": np.linspace(0, 0.001, 100),
    "all high": 1 - np.linspace(0, 0.001, 100) ** 2,
    "subnormal": np.array([5e-324, 1e-310, 1e-30, 1.0]),
    "an outlier": np.append(np.full(1000, 0.5), 1.0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("dtype", "max_iter"), [(np.float64, 1000), (np.float32, 2)])
@pytest.mark.parametrize("x", CORNERS.values(), ids=CORNERS)
def test_no_values_in_range_make_it_fail(x, dtype, max_iter):
    x = x.astype(dtype)
    model = BetaMixture(max_iter=max_iter).fit(x)
    everywhere = np.linspace(0, 1, 101, dtype=dtype)
    for values in (x, everywhere):
        shares = model.predict_proba(values)
        assert shares.dtype == dtype
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
        assert np.isfinite(model.score_samples(values)).all()
        assert set(model.predict(values)) <= {0, 1}
    assert (model.alphas_ > 0).all()
    assert (model.betas_ > 0).all()
    assert np.isfinite([model.alphas_, model.betas_]).all()
    assert model.weights_.sum() == pytest.approx(1)
    low, high = model.alphas_ / (model.alphas_ + model.betas_)
    assert low <= high


def test_spikes_are_told_apart():
    for name in ("two ends", "two spikes", "ends alone", "a spike at 0"):
        x = CORNERS[name]
        np.testing.assert_array_equal(BetaMixture().fit(x).predict(x), x > x.mean())


def test_what_comes_in_decides_what_comes_out():
    array = drawn(500)[0].astype(np.float32)
    tensor = torch.from_numpy(array)
    flat, column, from_tensor = (BetaMixture().fit(x) for x in (array, array[:, None], tensor))
    for name in ("alphas_", "betas_", "weights_"):
        values = getattr(from_tensor, name)
        assert values.dtype == torch.float64
        np.testing.assert_array_equal(getattr(flat, name), values.numpy())
        np.testing.assert_array_equal(getattr(flat, name), getattr(column, name))
    assert from_tensor.predict_proba(tensor[:, None]).dtype == from_tensor.score_samples(tensor).dtype == torch.float32
    assert from_tensor.predict_proba(tensor.half()).dtype == torch.float32
    assert isinstance(from_tensor.predict(array), np.ndarray)
    assert flat.predict(tensor).dtype == torch.int64
    assert from_tensor.predict(tensor[:0]).shape == (0,)
    assert flat.n_features_in_ == 1
    assert clone(flat).get_params() == {"max_iter": 1000, "tol": 1e-5}


@pytest.mark.usefixtures("without_type_checks")
def test_lists_are_arrays():
    np.testing.assert_array_equal(BetaMixture().fit([0.1, 0.2, 0.8]).predict([[0.1], [0.8]]), [0, 1])


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("settings", "data", "sentence"),
    [
        ({"max_iter": 0}, [0.5], "max_iter=0 must be a whole number, at least 1"),
        ({"tol": -1.0}, [0.5], "tol=-1.0 must not be negative"),
        ({"tol": float("nan")}, [0.5], "tol=nan must not be negative"),
        ({}, [0.5, 1.5, -0.1], r"2 of 3 values lie outside \[0, 1\]: scale them"),
        ({}, [0.5, np.nan], "1 of 2 rows of features hold NaN or infinity"),
        ({}, [[0.5], [np.inf]], "1 of 2 rows of features hold NaN or infinity"),
        ({}, [[0.5, 0.5]], r"X has shape \(1, 2\): give one value a row, \(n,\) or \(n, 1\)"),
        ({}, [], "0 sample|no values"),
        ({}, [[[0.5]]], "dim 3|real numbers"),
    ],
)
def test_mistakes(settings, data, sentence, kind):
    with pytest.raises(UserError, match=sentence):
        BetaMixture(**settings).fit(kind(data))


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_no_matrix_of_numbers():
    for data, sentence in [
        ([[0.1], [0.2, 0.3]], "inhomogeneous"),
        (np.array(["a"]), "could not convert string"),
    ]:
        with pytest.raises(UserError, match=sentence):
            BetaMixture().fit(data)


def test_predict_before_fit_and_outside():
    with pytest.raises(NotFittedError):
        BetaMixture().predict(torch.rand(3))
    with pytest.raises(UserError, match=r"1 of 1 values lie outside \[0, 1\]"):
        BetaMixture().fit(torch.linspace(0.1, 0.9, 9)).score(torch.tensor([2.0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu():
    x = torch.from_numpy(drawn()[0])
    on_cpu, on_gpu = BetaMixture().fit(x), BetaMixture().fit(x.cuda())
    assert on_gpu.alphas_.is_cuda
    np.testing.assert_allclose(on_gpu.alphas_.cpu().numpy(), on_cpu.alphas_.numpy(), rtol=1e-6)
    np.testing.assert_allclose(on_gpu.predict_proba(x.numpy()), on_cpu.predict_proba(x.numpy()), atol=1e-6)

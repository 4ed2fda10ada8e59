"""Numbers of clusters, starts and centres that are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.clustering.refusing import (
    NO_NUMBERS,
    NO_TENSORS,
    anywhere,
    by_every_metric,
    fit_kmeans,
    fit_mixture,
    matrices,
    not_finite,
    quickly,
    refused,
    run_kmeans,
    spoilt,
)

from shoal.clustering import KMeans
from shoal.clustering.kmeans import assign

pytestmark = [
    pytest.mark.usefixtures("without_type_checks"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@by_every_metric
@pytest.mark.parametrize("run", [fit_kmeans, fit_mixture, run_kmeans])
@quickly
@given(x=matrices(), extra=st.integers(1, 10**9), few=st.integers(-3, 0))
def test_more_clusters_than_rows_or_none(run, metric, x, extra, few):
    for k in (len(x) + extra, few):
        refused(run, x, metric, k, match=rf"={k} must lie between 1 and the number of rows \(n_samples={len(x)}\)")


START = {fit_kmeans: "init", fit_mixture: "means_init", run_kmeans: "init"}
from_a_start = pytest.mark.parametrize("run", START, ids=["KMeans", "GaussianMixture", "kmeans"])


@by_every_metric
@from_a_start
@quickly
@given(x=matrices(), rows=st.integers(-2, 2), columns=st.integers(-1, 2), flat=st.booleans())
def test_starts_of_another_shape(run, metric, x, rows, columns, flat):
    shape = (2 + rows, max(0, x.shape[1] + columns))
    start = torch.ones(shape if shape != (2, x.shape[1]) else (*shape, 1)).to(x.dtype)
    start = start.flatten() if flat else start
    refused(run, x, metric, **{START[run]: start}, match=rf"init has shape .*: give \(2, {x.shape[1]}\), one row")


@by_every_metric
@from_a_start
@quickly
@given(x=matrices(), where=anywhere, value=not_finite)
def test_starts_with_nan_and_infinity(run, metric, x, where, value):
    refused(run, x, metric, **{START[run]: spoilt(x[:2], where, value)}, match="init holds NaN, infinity or")


@from_a_start
@quickly
@given(x=matrices(), where=st.integers(0, 1))
def test_starts_without_a_direction(run, x, where):
    start = x[:2].clone()
    start[where] = 0
    refused(run, x, "cosine", **{START[run]: start}, match="init holds NaN, infinity or, under the cosine, a zero row")


@pytest.mark.parametrize("fit", [fit_kmeans, fit_mixture])
@pytest.mark.parametrize("what", sorted((NO_NUMBERS | NO_TENSORS).keys() - {"nothing", "a word"}))
def test_starts_that_are_no_numbers(fit, what):
    refused(fit, torch.eye(3), k=3, **{START[fit]: (NO_NUMBERS | NO_TENSORS)[what]})


@by_every_metric
@quickly
@given(x=matrices(), where=anywhere, value=not_finite)
def test_centres_with_nan_and_infinity(metric, x, where, value):
    refused(assign, x, spoilt(x[:2], where, value), metric, match="[cC]ent(er|re)s")


@pytest.mark.parametrize("centers", [torch.ones(2, 2), torch.ones(0, 3), torch.ones(3), torch.zeros(2, 3)])
def test_centres_of_another_shape_or_without_a_direction(centers):
    refused(assign, torch.ones(4, 3), centers, "cosine", match="[cC]ent(er|re)s")


def test_a_start_that_must_not_be_written_to_is_no_reason_to_warn():
    frozen = np.eye(3)
    frozen.flags.writeable = False
    fit_mixture(frozen, means_init=frozen[:2])


@pytest.mark.parametrize(
    "settings", [{"tol": -1.0}, {"tol": np.nan}, {"k": 2.5}, {"k": "3"}, {"k": True}, {"n_init": "auto"}]
)
def test_settings_of_kmeans_that_mean_nothing(settings):
    settings = {"k": 2, "n_init": 1} | settings
    refused(lambda: KMeans(settings.pop("k"), **settings).fit(torch.eye(5)))


@pytest.mark.parametrize("weights", [[-1.0] * 5, [np.nan] * 5, [0.0] * 5, [1.0] * 4, [["a"]]])
def test_weights_that_mean_nothing(weights):
    refused(run_kmeans, torch.eye(5), weights=weights, match="sample_weight")
    refused(KMeans(2).fit, torch.eye(5), None, weights, match="sample_weight")


def test_whole_weights_count_as_numbers():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    found, same = (run_kmeans(x, weights=torch.ones(200, dtype=d)) for d in (torch.int64, torch.float32))
    assert torch.equal(found.labels, same.labels)

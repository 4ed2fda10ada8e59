"""Mini-batch k-means, held to scikit-learn's and to a plain loop of the update."""

import pickle

import numpy as np
import pytest
import sklearn.cluster
import torch
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from shoal.clustering import KMeans, MiniBatchKMeans
from shoal.errors import UserError

DIGITS = load_digits().data.astype(np.float32)
CLUSTERED, _ = make_blobs(20_000, 16, centers=20, cluster_std=1.0, random_state=0)
OVERLAPPING, _ = make_blobs(20_000, 16, centers=20, cluster_std=8.0, random_state=0)
METRICS = ["euclidean", "cosine"]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning", "ignore:Number of distinct clusters")
@pytest.mark.parametrize("metric", METRICS)
def test_scikit_learns_checks(metric):
    # Batches are drawn by weight: a row of weight two is drawn twice as often, not at the same steps as two rows.
    expected = {"check_sample_weight_equivalence_on_dense_data": "random batches, in scikit-learn's own as well"}
    if metric == "cosine":
        expected["check_estimators_dtypes"] = "zero rows"
    results = check_estimator(MiniBatchKMeans(metric=metric), expected_failed_checks=expected)
    assert len(results) > 40
    others = {result["check_name"] for result in results if result["status"] != "passed"}
    assert others <= {"check_sample_weights_pandas_series", "check_array_api_input", *expected}


@pytest.mark.parametrize(
    ("x", "k"),
    [(DIGITS, 10), (CLUSTERED[:6000], 20), (OVERLAPPING[:6000], 20)],
    ids=["digits", "clustered", "overlapping"],
)
def test_inertia_is_scikit_learns(x, k):
    mine, peer = (
        np.mean([model(k, n_init=3, batch_size=256, random_state=seed).fit(x).inertia_ for seed in range(3)])
        for model in (MiniBatchKMeans, sklearn.cluster.MiniBatchKMeans)
    )
    assert mine < 1.03 * peer


@pytest.mark.parametrize("metric", METRICS)
def test_inertia_is_near_that_of_all_rows(metric):
    x = DIGITS - DIGITS.mean(0)
    whole = KMeans(10, metric=metric, n_init=3, random_state=0).fit(x).inertia_
    batches = [MiniBatchKMeans(10, metric=metric, random_state=seed).fit(x).inertia_ for seed in range(3)]
    assert whole < np.mean(batches) < 1.05 * whole


def plain_loop(batches, centers, metric, weights):
    """Every row by itself: the mean of the rows so far, for the cosine its direction."""
    centers, means, counts = centers.copy(), centers.copy(), np.zeros(len(centers))
    for batch, weight in zip(batches, weights, strict=True):
        labels = ((batch[:, None] - centers) ** 2).sum(2).argmin(1)
        for row, label, w in zip(batch, labels, weight, strict=True):
            if w:
                counts[label] += w
                means[label] += w / counts[label] * (row - means[label])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        centers = means / lengths if metric == "cosine" else means.copy()
    return centers


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("far", [0, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stream_is_what_a_plain_loop_makes_of_it(metric, far, weighted):
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((size, 5)) + far for size in (50, 7, 1, 30)]
    if metric == "cosine":
        batches = [batch / np.linalg.norm(batch, axis=1, keepdims=True) for batch in batches]
    weights = [rng.integers(0, 4, len(batch)) if weighted else np.ones(len(batch)) for batch in batches]
    weights[2][:] = 2
    start = batches[0][:4]
    model = MiniBatchKMeans(4, metric=metric, init=start, reassignment_ratio=0.0)
    for batch, weight in zip(batches, weights, strict=True):
        model.partial_fit(batch, sample_weight=weight if weighted else None)
        assert model.cluster_centers_.shape == (4, 5)
    weights = weights if weighted else [np.ones(len(batch)) for batch in batches]
    np.testing.assert_allclose(model.cluster_centers_, plain_loop(batches, start, metric, weights), rtol=1e-9)
    assert model.n_steps_ == 4


def test_a_stream_of_one_pass_comes_near_the_fit():
    model = MiniBatchKMeans(20, random_state=0)
    for batch in np.array_split(OVERLAPPING, 40):
        model.partial_fit(batch)
    inertia = (model.transform(OVERLAPPING).min(1) ** 2).sum()
    assert inertia < 1.03 * sklearn.cluster.MiniBatchKMeans(20, n_init=3, random_state=0).fit(OVERLAPPING).inertia_


def test_means_still_move_after_very_many_rows():
    model = MiniBatchKMeans(1, init=np.zeros((1, 1)))
    for value in (0, 1):
        model.partial_fit(torch.full((1, 1), value), sample_weight=torch.tensor([1e9]))
    for _ in range(100):
        model.partial_fit(torch.ones(1, 1), sample_weight=torch.tensor([10.0]))
    assert model._running.means.item() == pytest.approx((1e9 + 1000) / (2e9 + 1000), rel=1e-12)


def test_fits_after_a_fit_go_on_from_its_centres_and_a_new_fit_does_not():
    model = MiniBatchKMeans(10, random_state=0).fit(DIGITS)
    centers, n_steps = model.cluster_centers_.copy(), model.n_steps_
    model.partial_fit(DIGITS[:100])
    assert model.n_steps_ == n_steps + 1
    assert 0 < np.abs(model.cluster_centers_ - centers).max() < 1
    np.testing.assert_array_equal(model.fit(DIGITS).cluster_centers_, centers)


@pytest.mark.parametrize("metric", METRICS)
def test_attributes_agree_with_each_other(metric):
    model = MiniBatchKMeans(10, metric=metric, batch_size=100, max_iter=2, random_state=0).fit(DIGITS)
    distances = model.transform(DIGITS)
    np.testing.assert_array_equal(model.labels_, distances.argmin(1))
    np.testing.assert_array_equal(model.labels_, model.predict(DIGITS))
    cost = distances.min(1) if metric == "cosine" else distances.min(1) ** 2
    assert model.inertia_ == pytest.approx(cost.sum(), rel=1e-4)
    assert model.n_iter_ == np.ceil(model.n_steps_ * 100 / len(DIGITS)) <= 2
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_a_seed_repeats_and_survives_pickling(init):
    model, again = (MiniBatchKMeans(10, init=init, random_state=3).fit(DIGITS) for _ in range(2))
    np.testing.assert_array_equal(model.labels_, again.labels_)
    thawed = pickle.loads(pickle.dumps(model))
    for each in (model, thawed):
        each.partial_fit(DIGITS[:50])
    np.testing.assert_array_equal(model.cluster_centers_, thawed.cluster_centers_)


def test_when_it_ends():
    settings = {"batch_size": 100, "random_state": 0}
    steps = MiniBatchKMeans(10, max_iter=3, max_no_improvement=None, **settings).fit(DIGITS).n_steps_
    assert steps == 3 * len(DIGITS) // 100
    assert MiniBatchKMeans(10, **settings).fit(DIGITS).n_steps_ < 100 * len(DIGITS) // 100
    assert MiniBatchKMeans(10, tol=0.1, **settings).fit(DIGITS).n_steps_ < steps


@pytest.mark.parametrize(
    ("dtype", "within"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.int16, torch.float64)],
)
def test_other_numbers_are_computed_in_more_digits(dtype, within):
    x = torch.from_numpy(DIGITS).to(dtype)  # integers up to 16: exact in all of them
    expected = MiniBatchKMeans(10, random_state=0).fit(x.to(within))
    model = MiniBatchKMeans(10, random_state=0).fit(x)
    assert model.cluster_centers_.dtype == within
    assert torch.equal(model.labels_, expected.labels_)


@pytest.mark.parametrize("x", [np.asfortranarray(DIGITS), DIGITS.astype(">f8"), DIGITS.astype(np.uint8)])
def test_arrays_that_lie_otherwise(x):
    expected = MiniBatchKMeans(10, random_state=0).fit(DIGITS.astype(np.float64))
    np.testing.assert_array_equal(MiniBatchKMeans(10, random_state=0).fit(x).labels_, expected.labels_)


def test_rows_that_weigh_nothing_do_not_count():
    x = np.concatenate([DIGITS, DIGITS[:500] + 1000])
    weights = np.concatenate([np.ones(len(DIGITS)), np.zeros(500)])
    model = MiniBatchKMeans(10, random_state=0, batch_size=100).fit(x, sample_weight=weights)
    assert model.cluster_centers_.max() <= 16.001
    costs = model.transform(DIGITS).min(1) ** 2
    assert model.inertia_ == pytest.approx(costs.sum(), rel=1e-4)


def test_heavy_rows_draw_the_centres():
    weights = np.where(np.arange(len(OVERLAPPING)) < 1000, 1000.0, 1.0)
    plain, weighted = (
        MiniBatchKMeans(20, random_state=0).fit(OVERLAPPING, sample_weight=given) for given in (None, weights)
    )
    heavy = OVERLAPPING[:1000]
    assert (weighted.transform(heavy).min(1) ** 2).sum() < 0.97 * (plain.transform(heavy).min(1) ** 2).sum()


@pytest.mark.parametrize("ratio", [0.0, 0.01])
def test_centres_without_rows_move_to_rows(ratio):
    start = np.concatenate([DIGITS[:7], np.full((3, 64), 500.0)]).astype(np.float32)
    model = MiniBatchKMeans(10, init=start, reassignment_ratio=ratio, random_state=0).fit(DIGITS)
    assert (np.bincount(model.labels_, minlength=10) > 0).sum() == (10 if ratio else 7)


def test_reassigned_centres_are_rows_of_the_batch():
    start = np.array([[0.0], [900.0]])
    batch = np.arange(10.0)[:, None]
    model = MiniBatchKMeans(2, init=start, random_state=0).partial_fit(batch)
    assert model.cluster_centers_[0] == 4.5
    assert model.cluster_centers_[1] in batch
    assert model._running.counts.tolist() == [10, 10]  # not zero, which would move it again


MISTAKES = [
    ({"metric": "manhattan"}, DIGITS, "no metric 'manhattan': give one of euclidean, cosine"),
    ({"init": "best"}, DIGITS, "no init 'best': give one of k-means\\+\\+, "),
    (
        {"init": DIGITS[:3]},
        DIGITS,
        r"initial centers \(3, 64\) does not match the number of clusters 8: give \(8, 64\)",
    ),
    ({"n_init": 0}, DIGITS, "n_init=0 must be a whole number, at least 1"),
    ({"batch_size": 0}, DIGITS, "batch_size=0 must be a whole number"),
    ({"max_iter": 0}, DIGITS, "max_iter=0 must be a whole number"),
    ({"max_no_improvement": 0}, DIGITS, "max_no_improvement=0 must be a whole number"),
    ({"reassignment_ratio": -1}, DIGITS, "reassignment_ratio=-1 must not be negative"),
    ({"n_clusters": 2000}, DIGITS, r"n_clusters=2000 is more than there are rows: n_samples=1797"),
    ({}, torch.zeros(3), r"X is a tensor \(3,\)"),
    ({}, torch.zeros(30, 2, dtype=torch.complex64), "give real numbers"),
    ({}, torch.eye(30).to_sparse(), "sparse tensor"),
    ({"metric": "cosine"}, torch.zeros(30, 2), "zero and has no cosine"),
    ({}, torch.full((30, 2), torch.nan), "hold NaN"),
    ({}, np.full((30, 2), 1e30, np.float32) * np.arange(1, 31, dtype=np.float32)[:, None], "overflow"),
]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
@pytest.mark.parametrize(("settings", "data", "sentence"), MISTAKES)
def test_mistakes(way, settings, data, sentence):
    with pytest.raises(UserError, match=sentence):
        getattr(MiniBatchKMeans(**settings), way)(data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_row_that_no_batch_may_have_met(value):
    x = OVERLAPPING.copy()
    x[12_345, 3] = value
    with pytest.raises(UserError, match="hold NaN or infinity"):
        MiniBatchKMeans(3, batch_size=10, max_iter=1, max_no_improvement=1).fit(x)


def test_batches_that_do_not_fit():
    with pytest.raises(NotFittedError):
        MiniBatchKMeans(3).predict(DIGITS)
    model = MiniBatchKMeans(3).partial_fit(DIGITS)
    with pytest.raises(UserError, match="X has 2 features, but MiniBatchKMeans was fitted on 64"):
        model.partial_fit(torch.zeros(3, 2))
    with pytest.raises(UserError, match="sample_weight has shape"):
        model.partial_fit(DIGITS, sample_weight=np.ones(3))

"""The scikit-learn face of k-means."""

import numpy as np
import pytest
import sklearn.cluster
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.metrics import pairwise_distances
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from shoal.clustering import KMeans
from shoal.errors import UserError

X = load_iris().data


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning", "ignore:Number of distinct clusters")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_scikit_learns_checks(metric):
    # The rows of that check hold zeros, which have no direction.
    expected = {"check_estimators_dtypes": "zero rows"} if metric == "cosine" else {}
    results = check_estimator(KMeans(metric=metric), expected_failed_checks=expected)
    assert len(results) > 40
    # Weights are passed as repeated rows are, which scikit-learn's own k-means does not manage.
    assert {"check_sample_weight_equivalence_on_dense_data"} <= {result["check_name"] for result in results}
    others = {result["check_name"] for result in results if result["status"] != "passed"}
    assert others <= {"check_sample_weights_pandas_series", "check_array_api_input", *expected}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_transform_and_predict_agree_with_scikit_learns_distances(metric):
    model = KMeans(4, metric=metric, random_state=0).fit(X)
    distances = pairwise_distances(X, model.cluster_centers_, metric=metric)
    np.testing.assert_allclose(model.transform(X), distances, atol=1e-6)
    np.testing.assert_array_equal(model.labels_, distances.argmin(1))
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    cost = distances.min(1) if metric == "cosine" else distances.min(1) ** 2
    assert model.inertia_ == pytest.approx(cost.sum(), rel=1e-6)


def test_inertia_and_iterations_are_scikit_learns():
    peer = sklearn.cluster.KMeans(3, init=X[:3], n_init=1).fit(X)
    model = KMeans(3, init=X[:3]).fit(X)
    assert model.inertia_ == pytest.approx(peer.inertia_, rel=1e-6)
    assert model.n_iter_ == pytest.approx(peer.n_iter_, abs=1)


def test_what_comes_in_decides_what_comes_out():
    array, tensor = X.astype(np.float32), torch.from_numpy(X).float()
    from_array, from_tensor = (KMeans(3, random_state=0).fit(x) for x in (array, tensor))
    assert isinstance(from_array.labels_, np.ndarray)
    assert isinstance(from_tensor.labels_, torch.Tensor)
    assert isinstance(from_tensor.cluster_centers_, torch.Tensor)
    np.testing.assert_array_equal(from_array.labels_, from_tensor.labels_.numpy())
    assert isinstance(from_tensor.predict(array), np.ndarray)
    assert isinstance(from_array.transform(tensor), torch.Tensor)


def test_read_only_arrays_and_integer_tensors():
    frozen = X.copy()
    frozen.flags.writeable = False
    assert KMeans(3, random_state=0).fit(frozen).labels_.shape == (150,)
    assert KMeans(3, random_state=0).fit(torch.arange(20)[:, None]).labels_.dtype == torch.int64


def test_random_state_repeats_and_clone_keeps_parameters():
    model = KMeans(5, n_init=1, random_state=7)
    again = clone(model)
    np.testing.assert_array_equal(model.fit_predict(X), again.fit_predict(X))
    assert again.get_params() == model.get_params()


def test_in_a_pipeline_with_names():
    steps = make_pipeline(StandardScaler(), KMeans(3, random_state=0)).fit(X)
    assert steps.get_feature_names_out().tolist() == ["kmeans0", "kmeans1", "kmeans2"]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("settings", "data", "sentence"),
    [
        ({"n_clusters": 3, "metric": "manhattan"}, X, "no metric 'manhattan': give one of euclidean, cosine"),
        ({"n_clusters": 3, "init": "best"}, X, "no init 'best': give one of k-means\\+\\+, "),
        ({"n_clusters": 3, "n_init": 0}, X, "n_init=0"),
        ({"n_clusters": 200}, X, "n_clusters=200 is more than there are rows: n_samples=150"),
        ({"n_clusters": 1}, torch.zeros(3), r"X is a tensor \(3,\)"),
        ({"n_clusters": 1}, torch.zeros(3, 2, dtype=torch.complex64), "give real numbers"),
        ({"n_clusters": 1}, torch.full((3, 2), torch.nan), "hold NaN"),
    ],
)
def test_mistakes(settings, data, sentence):
    with pytest.raises(UserError, match=sentence):
        KMeans(**settings).fit(data)


def test_predict_before_fit_and_with_other_features():
    with pytest.raises(NotFittedError):
        KMeans(3).predict(torch.zeros(3, 2))
    with pytest.raises(UserError, match="X has 2 features, but KMeans was fitted on 4"):
        KMeans(3).fit(torch.from_numpy(X)).predict(torch.zeros(3, 2))

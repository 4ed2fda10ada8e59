"""In place of scikit-learn's estimators: its parameters, methods, warnings and words."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import sklearn.cluster
import torch
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import TEMI, BetaMixture, GaussianMixture, KMeans, MiniBatchKMeans, UMAPKMeans

pytestmark = pytest.mark.usefixtures("without_type_checks")
X = np.random.default_rng(0).normal(size=(200, 4)) + 5 * np.eye(4)[np.arange(200) % 4]
K_MEANS = [KMeans, MiniBatchKMeans]
by_k_means = pytest.mark.parametrize("kind", K_MEANS)


@by_k_means
def test_model_selection(kind):
    found = GridSearchCV(kind(random_state=0), {"n_clusters": [2, 4]}).fit(X)
    assert found.best_params_ == {"n_clusters": 4}
    assert (cross_val_score(make_pipeline(StandardScaler(), kind(3)), X) < 0).all()


@by_every_metric
@by_k_means
def test_the_score_is_minus_the_inertia(kind, metric):
    weights = np.random.default_rng(1).uniform(size=200)
    model = kind(4, metric=metric, random_state=0).fit(X, sample_weight=weights)
    assert model.score(X, sample_weight=weights) == pytest.approx(-model.inertia_)
    assert model.score(torch.from_numpy(X)) == pytest.approx(model.score(X))


@pytest.mark.parametrize("init", ["k-means++", "random", "k-means||"])
def test_as_many_runs_as_usual(init):
    one, other = (KMeans(4, init=init, n_init=n_init, random_state=0).fit(X) for n_init in ("auto", 10))
    np.testing.assert_array_equal(one.labels_, other.labels_)


@by_k_means
def test_starts_from_a_function(kind):
    calls = []

    def init(given, k, random_state):
        assert given is X
        calls.append(random_state.randint(1000))
        return X[random_state.permutation(len(X))[:k]]

    model = kind(4, init=init, n_init=3, random_state=0).fit(X)
    assert len(set(calls)) == 3
    assert model.inertia_ < 1.01 * sklearn.cluster.KMeans(4, n_init=5, random_state=0).fit(X).inertia_
    calls.clear()
    kind(4, init=init, random_state=0).fit(X)
    assert len(calls) == (10 if kind is KMeans else 3)
    refused(kind(4, init=lambda *_, **__: X[:2], n_init=1).fit, X, match=r"initial centers \(2, 4\) does not match")


@by_k_means
def test_a_number_of_runs_beside_given_centres(kind):
    with pytest.warns(RuntimeWarning, match="performing only one init in"):
        kind(4, init=X[:4], n_init=10).fit(X)
    kind(4, init=X[:4]).fit(X)


def test_algorithms_are_the_same():
    one, other = (KMeans(4, algorithm=name, copy_x=False, random_state=0).fit(X) for name in ("lloyd", "elkan"))
    np.testing.assert_array_equal(one.cluster_centers_, other.cluster_centers_)
    with pytest.warns(RuntimeWarning, match="doesn't make sense for a single cluster"):
        KMeans(1, algorithm="elkan").fit(X)


def test_what_a_verbose_fit_prints(capsys):
    KMeans(4, n_init=1, verbose=1, random_state=0).fit(X)
    printed = capsys.readouterr().out
    assert "Initialization complete" in printed
    assert "Iteration 1, inertia " in printed
    MiniBatchKMeans(4, batch_size=20, verbose=1, random_state=0).fit(X)
    assert "lack of improvement in inertia" in capsys.readouterr().out
    KMeans(4).fit(X)
    assert not capsys.readouterr().out


def test_mini_batches_in_float64_stop_by_their_tolerance_no_sooner():
    """Centres of float64 once were changed in place, so that no step moved them."""
    settings = {"init": X[:4], "batch_size": 20, "max_no_improvement": None, "max_iter": 10, "random_state": 0}
    half, whole = (MiniBatchKMeans(4, tol=1e-4, **settings).fit(x).n_steps_ for x in (X.astype(np.float32), X))
    assert half == whole > 10


def test_clusters_of_the_last_batch():
    model = MiniBatchKMeans(4, random_state=0).partial_fit(X[:100]).partial_fit(X[100:])
    np.testing.assert_array_equal(model.labels_, model.predict(X[100:]))
    assert model.inertia_ == pytest.approx(-model.score(X[100:]))
    assert not hasattr(MiniBatchKMeans(4, compute_labels=False).partial_fit(X), "labels_")


def test_a_sample_smaller_than_the_clusters():
    with pytest.warns(RuntimeWarning, match="init_size=10 should be larger than n_clusters=20"):
        MiniBatchKMeans(20, init_size=10, random_state=0).fit(X)


@pytest.mark.usefixtures("no_umap")
@pytest.mark.parametrize(
    "estimator",
    [KMeans(12), MiniBatchKMeans(12), GaussianMixture(12), UMAPKMeans(12, metric="euclidean")],
    ids=lambda each: type(each).__name__,
)
def test_fewer_rows_that_differ_than_clusters(estimator):
    x = np.repeat(np.random.default_rng(0).normal(size=(7, 2)), 2, axis=0)
    with pytest.warns(match=r"Number of distinct clusters \(7\) found smaller than n_clusters \(12\)"):
        labels = estimator.set_params(random_state=0).fit(x).labels_
    assert len(set(labels)) == 7
    np.testing.assert_array_equal(labels[::2], labels[1::2])


def test_mini_batches_that_left_a_centre_alone_do_not_blame_the_rows():
    start = np.concatenate([X[:3], np.full((2, 4), 500.0)])
    MiniBatchKMeans(5, init=start, reassignment_ratio=0.0, random_state=0).fit(X)


@pytest.mark.parametrize("k", [np.int64(3), np.int32(3), np.uint8(3)])
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans, GaussianMixture])
def test_numpys_whole_numbers(kind, k):
    assert len(np.unique(kind(k, random_state=0).fit(X).labels_)) == 3


WRONG = {
    KMeans: {"n_clusters": 3.0, "n_init": "a", "tol": "a", "max_iter": None, "metric": 3, "algorithm": "full"},
    MiniBatchKMeans: {
        "n_clusters": "3",
        "n_init": "a",
        "batch_size": 10.5,
        "init_size": 0,
        "max_no_improvement": "a",
        "tol": "a",
        "reassignment_ratio": "a",
        "max_iter": 1.5,
    },
    GaussianMixture: {"n_components": 3.0, "n_init": 1.5, "tol": "a", "reg_covar": None, "covariance_type": 1},
    UMAPKMeans: {"n_clusters": 3.0, "metric": None},
    TEMI: {"n_clusters": 3.0, "n_heads": 1.5, "epochs": "a", "beta": "a", "n_neighbors": 2.5, "batch_size": 0.5},
    BetaMixture: {"max_iter": 1.5, "tol": "a"},
}


@pytest.mark.usefixtures("no_umap")
@pytest.mark.parametrize(
    ("kind", "name", "value"), [(kind, *each) for kind, wrong in WRONG.items() for each in wrong.items()]
)
def test_wrong_parameters_are_named(kind, name, value):
    x = X[:, :1] / 20 + 0.5 if kind is BetaMixture else X
    refused(kind(**{name: value}).fit, x.clip(0, 1) if kind is BetaMixture else x, match=f"{name}|{value}")


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans, GaussianMixture])
@pytest.mark.parametrize("sparse", [scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.coo_array])
def test_sparse_rows_are_refused_by_name(kind, sparse):
    refused(kind(2).fit, sparse(X), match="[Ss]parse data was passed")


@pytest.mark.slow
def test_scikit_learns_own_tests():
    script = Path(__file__).parents[2] / "benchmarks" / "sklearn_tests.py"
    found = subprocess.run([sys.executable, script, "k_means"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:]

"""A clustering that was put away and taken out again is the same, and a damaged one is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from tests.clustering.refusing import refused

from shoal.clustering import (
    UMAPHDBSCAN,
    GaussianMixture,
    KMeans,
    MiniBatchKMeans,
    build_clusterer,
    clusterer_from,
    saved,
    state_of,
)
from shoal.clustering.occupied import restricted
from shoal.clustering.temi.estimator import TEMI
from shoal.clustering.temi.heads import BOTTLENECK, HEAD_SHAPES, HIDDEN, Head
from shoal.clustering.umap import UMAPKMeans

pytestmark = pytest.mark.usefixtures("no_umap")
KINDS = {
    "KMeans": KMeans(4, n_init=1, random_state=0),
    "MiniBatchKMeans": MiniBatchKMeans(4, random_state=0),
    "UMAPKMeans": UMAPKMeans(4, random_state=0),
    "TEMI": TEMI(4, n_heads=2, epochs=1, random_state=0),
} | {
    f"GaussianMixture {kind}": GaussianMixture(4, covariance_type=kind, random_state=0)
    for kind in ("full", "tied", "diag", "spherical")
}


def rows(n=80, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 3 * torch.eye(5)[torch.arange(n) % 4]


def through_files(clusterer):
    header, tensors = state_of(clusterer)
    return json.loads(json.dumps(header)), load(save(tensors))


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("clusterer", KINDS.values(), ids=KINDS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_comes_back_bit_for_bit(clusterer, metric, as_array):
    x, new = ((each.double().numpy() if as_array else each) for each in (rows(), rows(20, seed=1)))
    fitted = clusterer.set_params(metric=metric).fit(x)
    again = clusterer_from(*through_files(fitted))
    assert type(again) is type(fitted)
    for given in (x, new):
        for ask in ("predict", "predict_proba"):
            one, other = (torch.as_tensor(getattr(each, ask)(given)) for each in (fitted, again))
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    refused(again.predict, new[:, :3], match="3 features, but")


@pytest.mark.parametrize(
    ("method", "n", "kind"),
    [
        ("kmeans", 10_000_000, KMeans),
        ("umap-kmeans", 100, UMAPKMeans),
        ("gmm", 100, GaussianMixture),
        ("temi", 100, TEMI),
        ("density", 100, UMAPHDBSCAN),
    ],
)
def test_clusterers_by_name(method, n, kind):
    clusterer = build_clusterer(method, 7, metric="cosine", seed=3, n=n)
    assert type(clusterer) is kind
    settings = clusterer.get_params()
    assert [settings[name] for name in ("n_clusters", "n_components", "layer") if name in settings] == [7]
    assert (settings["metric"], settings["random_state"]) == ("cosine", 3)
    assert settings.get("covariance_type", "diag") == "diag"


def test_features_larger_than_half_of_the_memory_are_clustered_by_mini_batches(monkeypatch):
    monkeypatch.setattr(saved, "host_memory", lambda: 4096.0)
    for n, kind in ((16, KMeans), (17, MiniBatchKMeans)):
        assert type(build_clusterer("kmeans", 7, metric="cosine", seed=3, n=n, row_bytes=128)) is kind


def test_saved_mini_batches_go_on():
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    fitted = MiniBatchKMeans(4, random_state=0).fit(x[:300])
    again = clusterer_from(*through_files(fitted))
    assert torch.equal(again.counts_, fitted.counts_)
    for batch in x[300:].split(100):
        fitted.partial_fit(batch)
        again.partial_fit(batch)
    torch.testing.assert_close(again.cluster_centers_, fitted.cluster_centers_)
    header, tensors = through_files(fitted)
    del tensors["counts_"]  # as in files of older versions
    older = clusterer_from(header, tensors).partial_fit(x)
    torch.testing.assert_close(older.cluster_centers_, fitted.cluster_centers_, atol=0.5, rtol=0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_head_that_an_earlier_version_kept_is_read(metric):
    sizes, draw = {"d": 5, "hidden": HIDDEN, "bottleneck": BOTTLENECK, "k": 4}, torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn([sizes[each] for each in shape], generator=draw) for name, shape in HEAD_SHAPES.items()
    }
    header = {"format": 1, "estimator": "TEMI", "metric": metric, "n_features": 5, "n_clusters": 4}
    older = clusterer_from(header, tensors)
    torch.testing.assert_close(older.predict_proba(rows()), Head(metric, **tensors)(rows()))
    again = clusterer_from(*through_files(older))
    assert torch.equal(again.predict_proba(rows()), older.predict_proba(rows()))
    kept = restricted(older, torch.tensor([0, 2, 3]))
    expected = older.predict_proba(rows())[:, [0, 2, 3]]
    torch.testing.assert_close(kept.predict_proba(rows()), expected / expected.sum(1, keepdim=True))
    refused(clusterer_from, header, {**tensors, "last": tensors["last"][:, :3]}, match="its last has shape")


@pytest.mark.usefixtures("without_type_checks")
def test_there_is_no_other_method():
    refused(build_clusterer, "dbscan", 2, metric="cosine", seed=0, n=9, match="no clustering method 'dbscan': give one")


DAMAGE = {
    "no estimator": (lambda h, _: h.pop("estimator"), "estimator None"),
    "another estimator": (lambda h, _: h.update(estimator="os"), "estimator 'os'"),
    "another version": (lambda h, _: h.update(format=2), "format 2"),
    "no k": (lambda h, _: h.pop("n_clusters"), "n_clusters None"),
    "k is not a number": (lambda h, _: h.update(n_clusters=True), "n_clusters True"),
    "another k": (lambda h, _: h.update(n_clusters=5), r"cluster_centers_ has shape \(4, 5\)"),
    "another d": (lambda h, _: h.update(n_features=4), r"cluster_centers_ has shape \(4, 5\)"),
    "no metric": (lambda h, _: h.update(metric="l1"), "metric 'l1'"),
    "no variance": (lambda h, _: h.pop("variance"), "variance None"),
    "NaN for a variance": (lambda h, _: h.update(variance=math.nan), "variance nan"),
    "no centres": (lambda _, t: t.pop("cluster_centers_"), "no cluster_centers_"),
    "NaN": (lambda _, t: t["cluster_centers_"].fill_(math.nan), "holds NaN"),
    "integers": (lambda _, t: t.update(cluster_centers_=t["cluster_centers_"].long()), "another kind of numbers"),
}


@pytest.mark.parametrize(("spoil", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(spoil, sentence):
    header, tensors = through_files(KMeans(4, n_init=1, random_state=0).fit(rows()))
    spoil(header, tensors)
    refused(clusterer_from, header, tensors, match=sentence)


def test_damaged_votes_and_covariances_are_refused():
    header, tensors = through_files(UMAPKMeans(4, random_state=0).fit(rows()))
    refused(clusterer_from, header, tensors | {"row_labels_": tensors["row_labels_"] + 4}, match="do not belong")
    refused(clusterer_from, header, tensors | {"row_labels_": tensors["row_labels_"][1:]}, match="do not belong")
    header, tensors = through_files(GaussianMixture(2, random_state=0).fit(rows()))
    refused(clusterer_from, header | {"covariance_type": "round"}, tensors, match="covariance_type 'round'")
    refused(clusterer_from, header | {"covariance_type": "diag"}, tensors, match="covariances_ has shape")


def test_every_kind_is_listed_everywhere():
    assert set(saved.CLASSES) == set(saved.SETTINGS) == set(saved.SHAPES)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("as_array", [False, True])
def test_centres_found_elsewhere_make_a_fitted_estimator(metric, as_array):
    x = rows().double().numpy() if as_array else rows()
    fitted = KMeans(4, metric=metric, n_init=2, random_state=0).fit(x)
    scale = 3 if metric == "cosine" else 1
    made = KMeans.from_centers(fitted.cluster_centers_ * scale, x, metric)
    assert type(made.labels_) is type(fitted.labels_)
    assert made.n_features_in_ == 5
    assert made.variance_ == pytest.approx(fitted.variance_, rel=1e-5)
    assert made.inertia_ == pytest.approx(fitted.inertia_, rel=1e-5)
    again = clusterer_from(*through_files(made))
    for name, atol in (("cluster_centers_", 1e-6), ("labels_", 0)):
        one, other = (torch.as_tensor(getattr(each, name)) for each in (fitted, made))
        torch.testing.assert_close(one, other, rtol=0, atol=atol)
    for ask in ("predict", "predict_proba"):
        one, two, three = (torch.as_tensor(getattr(each, ask)(x)) for each in (fitted, made, again))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two, three, rtol=0, atol=0)


def test_centres_that_do_not_fit_the_features():
    refused(KMeans.from_centers, torch.eye(3), rows(), "euclidean", match=r"centers has shape \(3, 3\): give \(3, 5\)")
    refused(KMeans.from_centers, torch.full((2, 5), math.nan), rows(), "cosine", match="centers holds NaN")


def test_centres_of_a_read_only_map(tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", rows().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    made = KMeans.from_centers(rows()[:3], mapped)
    assert torch.equal(made.predict(rows()), made.labels_)

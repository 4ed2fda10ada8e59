"""HDBSCAN in UMAP: layers, noise, and who votes for whom. The first columns stand for the embedding, unless slow."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.base import clone
from sklearn.cluster import HDBSCAN
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import UMAPHDBSCAN, build_clusterer, clusterer_from, density, state_of
from shoal.clustering.density import density_layers, in_series, smallest_cluster
from shoal.clustering.occupied import restricted

first_columns = pytest.mark.usefixtures("no_umap")


def nested(n=40, seed=0, d=6):
    """Three groups far apart, each of three close together, and a few rows far from all of them."""
    rng = np.random.default_rng(seed)
    outer = np.repeat(np.eye(3) * 60 + 20, 3, 0)
    inner = np.tile(np.eye(3) * 8, (3, 1))
    centers = np.zeros((9, d))
    centers[:, :3] = outer + inner
    rows = np.repeat(centers, n, 0) + rng.normal(size=(9 * n, d))
    stray = np.zeros((4, d))
    stray[:, :3] = [[200, 0, 5], [0, 210, 5], [5, 5, 220], [150, 150, 0]]
    group = np.append(np.repeat(np.arange(9), n), [-1] * 4)
    return torch.from_numpy(np.concatenate([rows, stray])).float(), torch.from_numpy(group)


def through_files(clusterer):
    header, tensors = state_of(clusterer)
    return json.loads(json.dumps(header)), load(save(tensors))


@first_columns
@by_every_metric
def test_groups_noise_and_layers(metric):
    x, group = nested()
    model = UMAPHDBSCAN(metric=metric, random_state=0).fit(x)
    assert model.n_clusters_ == 9
    assert model.choices_ == [3, 9]
    assert (model.labels_[group < 0] == -1).all()
    inside = group >= 0
    assert (model.labels_[inside] >= 0).float().mean() > 0.95
    assert adjusted_rand_score(group[inside], model.labels_[inside]) > 0.95
    coarse = model.with_clusters(3)
    assert adjusted_rand_score(group[inside] // 3, coarse.predict(x)[inside]) == 1
    assert (coarse.predict(x)[~inside] == -1).all()
    assert (model.n_clusters_, coarse.n_clusters_) == (9, 3)
    assert not hasattr(coarse, "labels_")
    asked = UMAPHDBSCAN(3, metric=metric, random_state=0).fit(x)
    assert torch.equal(asked.labels_, coarse.predict(x))


@first_columns
@pytest.mark.parametrize(("n", "groups", "taken"), [(60, 2, 3), (60, 5, 3), (60, 6, 9), (60, 40, 9), (50, 3, 9)])
def test_of_500_rows_the_layer_nearest_to_the_number_of_groups_is_taken(n, groups, taken, monkeypatch):
    monkeypatch.setattr(density, "suggest_k", lambda *_, **__: SimpleNamespace(k=groups))
    x, _ = nested(n)
    model = UMAPHDBSCAN(random_state=0).fit(x)
    assert (model.choices_, model.n_clusters_) == ([3, 9], taken)
    assert torch.equal(model.labels_, model.predict(x))
    asked = UMAPHDBSCAN(min_cluster_size=model.min_cluster_size_, random_state=0).fit(x)
    assert asked.n_clusters_ == UMAPHDBSCAN(9, random_state=0).fit(x).n_clusters_ == 9


@pytest.mark.slow
def test_three_digits_are_three_clusters():
    """Of so many images each, the default size alone finds seven."""
    pixels, digit = load_digits(return_X_y=True)
    three = np.isin(digit, (3, 6, 7))
    model = UMAPHDBSCAN(random_state=0).fit(pixels[three])
    assert (model.labels_ >= 0).mean() > 0.95
    assert adjusted_rand_score(digit[three], model.labels_) > 0.95


@first_columns
def test_layers_are_scikit_learns_and_numbered_by_size():
    points = nested(n=30)[0][:, :3].double().numpy()
    for size, labels in density_layers(points, 12):
        theirs = HDBSCAN(
            min_cluster_size=size, min_samples=density.MIN_SAMPLES, cluster_selection_method="leaf", copy=True
        )
        theirs = theirs.fit(points).labels_
        np.testing.assert_array_equal(labels < 0, theirs < 0)
        assert adjusted_rand_score(theirs, labels) == 1
        counts = np.bincount(labels[labels >= 0])
        assert (np.diff(counts) <= 0).all()
    sizes = [size for size, _ in density_layers(points, 12)]
    assert sizes[0] == 12


@first_columns
@by_every_metric
def test_fitted_rows_keep_their_clusters_and_noise(metric):
    x, _ = nested()
    model = UMAPHDBSCAN(metric=metric, random_state=0).fit(x)
    assert torch.equal(model.predict(x), model.labels_)
    shares = model.predict_proba(x)
    nowhere = model.labels_ < 0
    assert nowhere.any()
    assert (shares[nowhere] == 0).all()
    assert (shares[~nowhere].amax(1) >= 0.509).all()


@first_columns
@by_every_metric
def test_new_rows_are_where_a_plain_loop_puts_them(metric):
    x = nested(spread := 30)[0].numpy()
    new = np.concatenate([nested(spread, seed=1)[0][::7].numpy(), np.full((1, 6), 500.0), -x[:2]])
    model = UMAPHDBSCAN(metric=metric, random_state=0).fit(x)
    measure = cosine_distances if metric == "cosine" else euclidean_distances
    among = measure(x.astype(float))
    reach = np.zeros(model.n_clusters_)
    for label, distances in zip(model.labels_, among, strict=True):
        if label >= 0:
            reach[label] = max(reach[label], np.sort(distances)[10])  # the nearest is the row itself
    expected = np.zeros((len(new), model.n_clusters_))
    for row, distances in enumerate(measure(new.astype(float), x.astype(float))):
        near = np.argsort(distances)[:10]
        votes = np.zeros(model.n_clusters_ + 1)
        for i in near:
            votes[model.labels_[i]] += 1 / (distances[i] + distances[near].mean())
        votes /= votes.sum()
        best = votes[:-1].argmax()
        if votes[best] > votes[-1] and distances[near[-1]] <= reach[best]:
            expected[row] = votes[:-1]
    np.testing.assert_allclose(model.predict_proba(new), expected, atol=2e-4)
    labels = np.where(expected.max(1) > 0, expected.argmax(1), -1)
    np.testing.assert_array_equal(model.predict(new), labels)
    assert (labels[:-3] >= 0).mean() > 0.8
    assert (labels[-3:] == -1).all() or metric == "cosine"  # 500 in all columns points where no group does


@first_columns
@by_every_metric
def test_the_module_agrees_and_has_no_branches(metric):
    x, _ = nested()
    model = UMAPHDBSCAN(metric=metric, random_state=0).fit(x)
    new = torch.cat([nested(seed=1)[0], torch.full((2, 6), -400.0)])
    module = model.as_module()
    torch.testing.assert_close(module(new), model.predict_proba(new), atol=1e-3, rtol=0)
    assert (module(new)[-2:] == 0).all()


@first_columns
def test_it_comes_back_bit_for_bit_with_its_layers():
    x, _ = nested()
    for k in (9, 3):
        fitted = UMAPHDBSCAN(k, min_cluster_size=12, random_state=0).fit(x)
        again = clusterer_from(*through_files(fitted))
        new = nested(seed=1)[0]
        assert torch.equal(again.predict_proba(new), fitted.predict_proba(new))
        assert (again.n_clusters_, again.choices_, again.min_cluster_size) == (k, [3, 9], 12)
        assert torch.equal(again.with_clusters(12 - k).predict(x), fitted.with_clusters(12 - k).predict(x))


DAMAGE = {
    "labels too low": (lambda _, t: t["layers_"].sub_(2), "layers do not belong"),
    "a gap": (lambda _, t: t["layers_"].masked_fill_(t["layers_"] == 0, 1), "layers do not belong"),
    "too few": (lambda _, t: t.update(layers_=t["layers_"][:, 1:].contiguous()), "layers do not belong"),
    "none": (lambda _, t: t.update(layers_=t["layers_"][:0]), "layers do not belong"),
    "another k": (lambda h, _: h.update(layer=5), "layers do not belong"),
    "fractions": (lambda _, t: t.update(layers_=t["layers_"].float()), "another kind of numbers"),
    "no cores": (lambda _, t: t.pop("cores_"), "no cores_"),
    "a size": (lambda h, _: h.update(min_cluster_size="x"), "min_cluster_size 'x'"),
}


@first_columns
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(("spoil", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(spoil, sentence):
    header, tensors = through_files(UMAPHDBSCAN(random_state=0).fit(nested()[0]))
    spoil(header, tensors)
    refused(clusterer_from, header, tensors, match=sentence)


@first_columns
def test_some_of_the_clusters():
    x, _ = nested()
    fitted = UMAPHDBSCAN(random_state=0).fit(x)
    found = restricted(fitted, torch.tensor([0, 2, 5]))
    before, after = fitted.predict(x), found.predict(x)
    for place, number in enumerate((0, 2, 5)):
        assert (after[before == number] == place).all()
    assert (after[before == -1] == -1).all()
    assert found.choices_ == [3]


@first_columns
def test_without_one_of_its_clusters_a_layer_has_the_others_beside_it():
    x, group = nested()
    fitted = UMAPHDBSCAN(random_state=0).fit(x)
    found = restricted(fitted, torch.tensor([0, 1, 2, 3, 5, 6, 7, 8]))
    assert (found.n_clusters_, found.choices_) == (8, [3, 8])
    coarse = clusterer_from(*through_files(found)).with_clusters(3)
    left = (group >= 0) & (fitted.predict(x) != 4)
    assert adjusted_rand_score(group[left] // 3, coarse.predict(x)[left]) == 1


@first_columns
def test_equal_rows_count_once_and_share_their_cluster():
    x, _ = nested(n=20)
    copies = x.repeat(5, 1)
    one, many = (UMAPHDBSCAN(random_state=0).fit(each) for each in (x, copies))
    assert len(many.rows_) == len(x)
    assert torch.equal(many.labels_, one.labels_.repeat(5))


def test_rows_that_are_all_equal_are_one_cluster():
    for x in (torch.ones(30, 4), torch.arange(1, 31.0)[:, None] * torch.ones(1, 4)):
        model = UMAPHDBSCAN(random_state=0).fit(x)
        assert (model.n_clusters_, model.choices_) == (1, [1])
        assert (model.labels_ == 0).all()
        assert model.predict(x).tolist() == [0] * 30
        assert model.predict_proba(x).shape == (30, 1)


def test_too_few_rows_for_two_clusters_are_noise():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    model = UMAPHDBSCAN(random_state=0).fit(x)
    assert (model.n_clusters_, model.choices_) == (0, [])
    assert (model.labels_ == -1).all()
    assert (model.predict(x) == -1).all()
    assert model.predict_proba(x).shape == (9, 0)
    again = clusterer_from(*state_of(model))
    assert again.n_clusters_ == 0
    assert (again.predict(x) == -1).all()


@first_columns
def test_one_group_has_no_valley():
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 1.0])
    model = UMAPHDBSCAN(min_cluster_size=60, metric="euclidean", random_state=0).fit(x)
    assert model.n_clusters_ == 0


@first_columns
def test_beyond_the_sample_rows_are_put_by_vote(monkeypatch):
    monkeypatch.setattr(density, "MAX_ROWS", 200)
    x, group = nested()
    model = UMAPHDBSCAN(min_cluster_size=12, metric="euclidean", random_state=0).fit(x)
    assert model.rows_.shape == (200, 6)
    assert torch.equal(model.labels_, model.predict(x))
    inside = group >= 0
    assert model.n_clusters_ == 9
    assert (model.labels_[inside] >= 0).float().mean() > 0.9
    kept = model.labels_ >= 0
    assert adjusted_rand_score(group[kept & inside], model.labels_[kept & inside]) > 0.98
    assert torch.equal(clone(model).fit(x).labels_, model.labels_)


@first_columns
@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int64])
def test_rows_keep_their_digits(kind):
    """Far from 0 as near it, for tensors and arrays."""
    x = (100 * nested()[0]).round() / (1 if kind == torch.int64 else 100)
    far = 1_700_000_000 if kind != torch.float16 else 0
    near = UMAPHDBSCAN(metric="euclidean", random_state=0).fit(x.double()).labels_
    for rows in (x.to(kind) + far, (x.to(kind) + far).numpy()):
        found = UMAPHDBSCAN(metric="euclidean", random_state=0).fit(rows)
        assert type(found.labels_) is type(rows)
        same = torch.as_tensor(found.labels_) == near
        assert same.all() if kind != torch.float16 else same.float().mean() > 0.95


@first_columns
@pytest.mark.usefixtures("without_type_checks")
def test_mistakes():
    x, _ = nested()
    refused(UMAPHDBSCAN(5, random_state=0).fit, x, match="no layer of 5 clusters: the density suggests 3 and 9, so")
    refused(UMAPHDBSCAN(0).fit, x, match="layer=0")
    for size in (1, 2.5, True, "a"):
        refused(UMAPHDBSCAN(min_cluster_size=size).fit, x, match="min_cluster_size=")
    refused(UMAPHDBSCAN(metric="l1").fit, x, match="metric 'l1'")
    refused(UMAPHDBSCAN().fit, x[:2], match=r"n_samples=2")
    refused(UMAPHDBSCAN(2, random_state=0).fit, x[:9], match="no group is dense")
    for bad in (torch.nan, torch.inf):
        refused(UMAPHDBSCAN().fit, x.clone().index_fill_(0, torch.tensor([3]), bad), match="NaN or infinity")
    refused(UMAPHDBSCAN().fit, x.clone().index_fill_(0, torch.tensor([3]), 0.0), match="zero")
    refused(build_clusterer, "kmeans", None, metric="cosine", seed=0, n=9, match="kmeans takes a number of clusters")


def test_words_and_sizes():
    assert [in_series(each) for each in ([], [6], [6, 12], [6, 12, 31])] == ["", "6", "6 and 12", "6, 12 and 31"]
    assert [smallest_cluster(n) for n in (3, 100, 5000, 10_000)] == [5, 15, 106, 150]


@pytest.mark.slow
def test_umap_and_hdbscan_find_groups_again():
    x, group = nested(n=60)
    model = UMAPHDBSCAN(metric="euclidean", random_state=0).fit(x)
    inside = (group >= 0) & (model.labels_ >= 0)
    assert inside.float().mean() > 0.9
    assert model.n_clusters_ in (3, 9)
    assert 9 in model.choices_
    later, where = nested(n=20, seed=1)
    found = model.with_clusters(9).predict(later)
    assert adjusted_rand_score(where[found >= 0], found[found >= 0]) > 0.95
    assert torch.equal(UMAPHDBSCAN(metric="euclidean", random_state=0).fit(x).labels_, model.labels_)


def test_scores_where_no_group_is_dense():
    model = UMAPHDBSCAN(metric="euclidean").fit(np.eye(5)[np.arange(100) % 5])
    assert model.log_scores(np.eye(5)).shape == (5, model.n_clusters_)

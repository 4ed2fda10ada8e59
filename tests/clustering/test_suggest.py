"""The choice of k: its parts against plain computations, its answers on groups of known number."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs, make_circles, make_moons, make_swiss_roll
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from shoal.clustering import suggest_k
from shoal.clustering.suggest.parts import looks_like_two
from shoal.clustering.suggest.places import distinct_places
from shoal.clustering.suggest.stability import Halves
from shoal.clustering.suggest.suggest import Candidate, Suggestion
from shoal.clustering.suggest.valleys import intrinsic_dimension, valley_depths, valley_groups
from shoal.errors import UserError


def groups(k=5, n=300, d=3, seed=0, spread=0.5):
    """Rows about k far centres, and their group."""
    rows, labels = make_blobs(n, d, centers=k, cluster_std=spread, center_box=(-12, 12), random_state=seed)
    return rows.astype(np.float32), labels


def blobs(k, d, distance, sizes, seed):
    """Groups of deviation 1, their centres about ``distance`` apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * distance / np.sqrt(2 * d)
    group = np.repeat(np.arange(k), sizes)
    return (centres[group] + rng.normal(size=(len(group), d))).astype(np.float32)


def depths_of(points, k=8):
    distances, index = NearestNeighbors(n_neighbors=2 * k + 1).fit(points).kneighbors(points)
    tensors = (torch.from_numpy(np.ascontiguousarray(each[:, 1:])) for each in (index, distances))
    return valley_depths(torch.from_numpy(points), *tensors, k)


@pytest.mark.parametrize(("d", "expected"), [(1, 1), (2, 2), (4, 3.9), (8, 7)])
def test_the_dimension_is_that_of_the_cube(d, expected):
    points = np.random.default_rng(0).uniform(size=(3000, d))
    distances, _ = NearestNeighbors(n_neighbors=13).fit(points).kneighbors(points)
    assert intrinsic_dimension(torch.from_numpy(distances[:, 1:])) == pytest.approx(expected, rel=0.15)


def test_a_valley_is_as_deep_as_the_density_falls():
    """Two normal distributions on a line, four deviations apart: between them the density is 0.27 of the peaks'."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=20_000), rng.normal(4, 1, 20_000)])[:, None]
    k = 400
    distances = np.sort(points[:, 0])
    gap = distances[k:] - distances[:-k]
    assert math.log(0.27) == pytest.approx(-math.log(gap[len(gap) // 2] / gap.min()), abs=0.5)
    deepest, *others = depths_of(points[::40], k=20).tolist()
    assert deepest == pytest.approx(-math.log(0.27) * math.sqrt(20) / 1.6, rel=0.5)
    assert not others or max(others) < deepest


def test_valleys_of_chance_are_not_deep():
    rng = np.random.default_rng(0)
    sets = [rng.uniform(size=(600, d)) for d in (1, 2, 3, 6)] + [rng.normal(size=(600, d)) for d in (2, 10, 40)]
    ring = rng.uniform(0, 2 * np.pi, 600)
    sets.append(np.stack([np.cos(ring), np.sin(ring)], 1))
    depths = torch.cat([depths_of(points, k) for points in sets for k in (8, 12)])
    assert len(depths) > 100
    assert float(depths.max()) < 4
    assert float((depths > 2).double().mean()) < 0.1


def test_groups_without_a_link_are_separated_by_their_gap():
    points = np.concatenate([np.random.default_rng(0).normal(size=(60, 2)) + 100 * i for i in range(3)])
    found = depths_of(points)
    assert (found > 6).sum() == 2


def test_rows_that_repeat_are_counted_once():
    points = torch.from_numpy(groups(d=6)[0])
    assert torch.equal(distinct_places(points).points, points)
    copies = points.repeat(5, 1)
    places = distinct_places(copies[torch.randperm(len(copies), generator=torch.Generator().manual_seed(0))]).points
    assert torch.equal(places.unique(dim=0), points.unique(dim=0))


def test_rows_that_nearly_repeat_are_counted_once():
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    nearly = rows.repeat(6, 1) + 0.03 * torch.randn(1200, 8, generator=torch.Generator().manual_seed(1))
    places = distinct_places(nearly).points
    assert len(places) == pytest.approx(200, rel=0.03)
    assert float(torch.cdist(rows, places).amin(1).max()) < 0.3


def test_stability_is_the_agreement_of_two_halves():
    points = torch.from_numpy(groups(4, n=400, d=5)[0])
    halves = Halves(points, 0)
    halves.sweep(2, 12)
    assert halves.best(2) == 4
    assert halves.stability[4] == 1
    labels = [KMeans(4, n_init=3, random_state=0).fit(points[half].numpy()) for half in halves.halves]
    a, b = (each.predict(points.numpy()) for each in labels)
    assert halves.stability[4] == pytest.approx(adjusted_rand_score(a, b))
    assert {3, 4, 5} <= set(halves.stability)
    assert sorted(torch.cat(halves.halves).tolist()) == list(range(400))


KNOWN = {
    "even": (5, lambda: groups(d=8)[0]),
    "two": (2, lambda: blobs(2, 16, 9, 300, 1)),
    "sizes from 900 to 20": (6, lambda: blobs(6, 12, 13, [900, 420, 200, 94, 44, 20], 3)),
    "one large": (3, lambda: blobs(3, 8, 16, [1200, 130, 25], 5)),
    "more than the square root": (40, lambda: blobs(40, 32, 13, 24, 2)),
    "moons": (2, lambda: make_moons(800, noise=0.06, random_state=3)[0]),
    "rings": (2, lambda: make_circles(1000, noise=0.04, factor=0.4, random_state=3)[0]),
    "one column": (3, lambda: np.random.default_rng(4).normal(np.repeat([0, 5, 12], 300), 0.4)[:, None]),
    "two columns": (4, lambda: blobs(4, 2, 30, 150, 2)),
    "noise columns": (4, lambda: np.hstack([blobs(4, 6, 13, 120, 7), np.random.default_rng(7).normal(size=(480, 60))])),
    "far rows": (3, lambda: np.concatenate([blobs(3, 6, 13, 200, 8), np.full((2, 6), 2000.0)])),
    "copies": (4, lambda: np.repeat(blobs(4, 8, 13, 30, 9), 8, 0)),
    "bursts": (4, lambda: np.repeat(blobs(4, 8, 13, 40, 9), 6, 0) + np.random.default_rng(0).normal(0, 0.1, (960, 8))),
    "categories": (6, lambda: np.repeat(np.eye(6), 40, 0)),
    "far from the origin": (3, lambda: 1.7e9 + blobs(3, 4, 15, 100, 11).astype(np.float64)),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_groups_are_counted(name):
    k, make = KNOWN[name]
    found = suggest_k(make(), metric="euclidean")
    assert found.k == k
    assert found.interval[0] <= k <= found.interval[1] <= k + 4


def test_round_groups_that_touch_are_found_again_by_k_means():
    rows = np.repeat(np.eye(12) * 4, 40, 0) + np.random.default_rng(0).normal(size=(480, 12))
    found = suggest_k(rows, metric="euclidean")
    assert found.k == 12
    assert found.best.stability > 0.9
    assert "k-means finds the same 12" in found.as_text()


def two_shapes(distance, d, n=150, seed=0):
    """Two Gaussians of different shapes, their means ``distance`` apart."""
    rng = np.random.default_rng(seed)
    shapes = np.eye(d) + 0.5 * rng.normal(size=(2, d, d))
    rows = rng.normal(size=(2, n, d)) @ shapes
    rows[1, :, 0] += distance
    return rows.reshape(-1, d)


def better_as_two_for_scikit_learn(points):
    """Whether two Gaussians win by 10 in the criterion, in the eight leading components at most."""
    x = PCA(min(points.shape[1], 8), whiten=True, random_state=0).fit_transform(points)
    single, *pairs = (
        GaussianMixture(k, covariance_type=kind, n_init=5, random_state=0).fit(x).bic(x)
        for k, kind in ((1, "full"), (2, "full"), (2, "tied"))
    )
    return min(pairs) < single - 10


@pytest.mark.parametrize("d", [1, 2, 5, 12])
def test_a_gaussian_does_not_look_like_two(d):
    for seed in range(4):
        points = two_shapes(0, d, seed=seed)[:150]
        assert not looks_like_two(torch.from_numpy(points))
        assert not better_as_two_for_scikit_learn(points)
        tails = np.random.default_rng(seed).standard_t(3, size=(300, d))
        assert not looks_like_two(torch.from_numpy(tails))  # a wide Gaussian about a narrow one


@pytest.mark.parametrize(("distance", "d"), [(5, 1), (5, 2), (4.5, 5), (6, 12)])
def test_two_gaussians_look_like_two(distance, d):
    points = two_shapes(distance, d)
    assert looks_like_two(torch.from_numpy(points))
    assert better_as_two_for_scikit_learn(points)


def test_a_few_rows_beside_many_are_seen():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(400, 6)), 0.7 * rng.normal(size=(12, 6)) + 3.2])
    assert looks_like_two(torch.from_numpy(points))
    assert not looks_like_two(torch.from_numpy(points[:400]))


def test_rows_along_a_line_in_many_dimensions_have_as_many_components_as_they_need():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(np.outer(rng.normal(size=200), rng.normal(size=40)))
    assert not looks_like_two(points)
    assert looks_like_two(torch.cat([points, points + 6 * points[0] / points[0].norm() * points.norm(dim=1).std()]))
    assert not looks_like_two(torch.zeros(3, 2))


def test_groups_of_valleys_are_the_groups():
    rows, labels = groups(5, n=500, d=4, spread=0.8)
    distances, index = NearestNeighbors(n_neighbors=11).fit(rows).kneighbors(rows)
    found = valley_groups(*(torch.from_numpy(np.ascontiguousarray(x[:, 1:])) for x in (index, distances)), 10, 4.0)
    assert adjusted_rand_score(labels, found) > 0.99


def test_clear_groups_are_called_clear():
    for k, seed in ((3, 1), (7, 2), (12, 3)):
        found = suggest_k(blobs(k, 10, 13, 90, seed), metric="euclidean")
        assert (found.k, found.clear) == (k, True)


@pytest.mark.parametrize("seed", range(4))
def test_groups_that_overlap_are_not_clear_and_within_the_interval(seed):
    rows = np.concatenate([blobs(4, 6, 25, 150, seed) + 40, two_shapes(3.5, 6, seed=seed)])
    found = suggest_k(rows, metric="euclidean")
    assert found.interval[0] <= 6 <= found.interval[1] <= 8
    assert not (found.clear and found.k != 6)


def test_few_different_rows_are_not_clear():
    rows = np.repeat(np.eye(7)[:, :6], 50, 0)
    found = suggest_k(rows, metric="euclidean")
    assert (found.k, found.interval, found.clear) == (7, (7, 7), False)
    assert "only 7 different rows" in found.as_text()
    far = np.repeat(np.concatenate([10 * np.eye(6)[i] + np.eye(6)[3:] for i in range(3)]), 40, 0)
    found = suggest_k(far, metric="euclidean")
    assert (found.k, found.interval, found.clear) == (9, (3, 9), False)


@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(0).standard_normal((200, 10)),
        np.random.default_rng(1).standard_normal((300, 64)) * np.arange(1, 65) ** -0.7 + 1,
        np.random.default_rng(2).uniform(size=(600, 2)),
        np.random.default_rng(3).uniform(size=(500, 1)),
        np.random.default_rng(4).standard_t(3, size=(300, 5)),
        make_swiss_roll(1000, noise=0.1, random_state=0)[0],
    ],
    ids=["Gaussian", "correlated", "square", "line", "heavy tails", "roll"],
)
def test_one_cloud_has_no_clear_structure(rows):
    found = suggest_k(rows, metric="euclidean")
    assert (found.k, found.clear, found.interval[0]) == (1, False, 1)
    assert "no clear structure" in found.as_text()
    within = suggest_k(rows, (2, 12), metric="euclidean")
    assert (within.interval, within.clear) == ((2, 12), False)
    assert 2 <= within.k <= 12


@pytest.mark.slow
def test_digits_are_about_ten():
    found = suggest_k(load_digits().data, metric="cosine")
    assert found.interval[0] <= 10 <= found.interval[1]


def test_the_range_is_kept_and_its_end_is_told():
    found = suggest_k(groups(8, n=400, d=8, seed=3, spread=0.4)[0], (2, 5), metric="euclidean")
    assert {candidate.k for candidate in found.candidates} <= {2, 3, 4, 5}
    assert found.k == 5
    assert not found.clear
    assert "try beyond 5" in found.as_text()


def test_candidates_are_ranked():
    found = suggest_k(groups(d=8)[0], metric="euclidean")
    scores = [candidate.score for candidate in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0 > scores[1]
    assert found.best.by_chance < 1e-6


def test_a_sample_is_enough(monkeypatch):
    monkeypatch.setattr("shoal.clustering.suggest.suggest.MAX_ROWS", 200)
    rows = groups(4, n=900)[0]
    found = suggest_k(torch.from_numpy(rows), metric="euclidean")
    assert (found.k, found.n_rows) == (4, 200)
    assert suggest_k(rows.astype(np.float64), metric="euclidean").k == 4


def test_the_cosine_looks_at_directions():
    directions = torch.nn.functional.normalize(torch.randn(4, 20, generator=torch.Generator().manual_seed(1)))
    g = torch.Generator().manual_seed(2)
    rows = directions[torch.arange(400) % 4] + 0.03 * torch.randn(400, 20, generator=g)
    lengths = torch.exp(3 * torch.randn(400, 1, generator=g))
    found = suggest_k(rows * lengths)
    assert (found.k, found.metric) == (4, "cosine")


def test_few_columns_are_no_directions():
    found = suggest_k(np.random.default_rng(3).uniform(size=(600, 2)))
    assert (found.metric, found.clear) == ("euclidean", False)


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor, np.asfortranarray, lambda rows: np.array(rows)[::-1]])
def test_it_takes_what_the_estimators_take(kind):
    assert suggest_k(kind(groups(3, n=90)[0].astype(np.float64).tolist()), metric="euclidean").k == 3


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_few_rows_are_one_cluster(n):
    found = suggest_k(np.random.default_rng(0).normal(size=(n, 30)))
    assert (found.k, found.clear) == (1, False)
    assert found.notes


@pytest.mark.parametrize(
    ("rows", "metric"),
    [
        (np.ones((40, 3)), "euclidean"),
        (np.linspace(1, 2, 40)[:, None], "cosine"),
        (np.repeat([1.0, 5.0], 20)[:, None] * np.linspace(1, 1.1, 40)[:, None], None),
        (np.linspace(1, 2, 40, dtype=np.float32)[:, None] * np.float32([1.1, 2.3, 3.7]), "cosine"),
    ],
    ids=["the same", "one column", "default", "multiples"],
)
def test_rows_of_one_place_are_one_cluster(rows, metric):
    found = suggest_k(rows, metric=metric)
    assert (found.k, found.interval, found.clear) == (1, (1, 1), False)
    assert "nothing to cluster: all 40 rows" in found.notes[0]


def test_a_single_row():
    assert suggest_k(np.ones((1, 3))).notes == ("There is nothing to cluster: there is only 1 row.",)


def test_a_seed_is_a_suggestion():
    rows = blobs(8, 10, 7.4, 30, 2)
    assert suggest_k(rows, seed=3) == suggest_k(torch.from_numpy(rows), seed=3)


def test_text_is_a_table_best_first():
    candidates = (Candidate(4, 2.5, 6.5, 0.0001, 0.875), Candidate(1, -3.0, None, 0.0, None))
    text = Suggestion(candidates, (3, 4), True, 100, "cosine", ("A note.",)).as_text()
    assert [line.split() for line in text.splitlines()] == [
        ["k", "score", "depth", "by", "chance", "stability"],
        ["4", "2.5", "6.5", "0.0001", "0.88"],
        ["1", "-3.0", "–", "0", "–"],
        [],
        ["best", "k", "=", "4,", "plausible", "from", "3", "to", "4"],
        ["A", "note."],
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        candidates[0].k = 5


def spoilt(value, column=None):
    rows = groups(n=40)[0]
    rows[3, slice(None) if column is None else column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "k_range", "sentence"),
    [
        (groups(n=40)[0], (9, 3), r"^k_range is reversed \(9, 3\): give the smaller k first\.$"),
        (groups(n=40)[0], (0, 3), r"^k_range starts at 0: give 1 or more\.$"),
        (groups(n=40)[0], (2, 41), r"^k_range ends at 41: give at most 40, the number of rows that are looked at\.$"),
        (groups(n=40)[0], (2.0, 4.0), r"^k_range=\(2\.0, 4\.0\) must be two whole numbers"),
        (groups(n=40)[0], (2, 3, 4), r"^k_range=\(2, 3, 4\) must be two whole numbers"),
        (spoilt(np.nan, 1), None, r"1 of 40 rows of features hold NaN or infinity: leave them out"),
        (spoilt(0.0), None, r"zero and has no cosine: leave it out, use metric='euclidean'"),
        (np.ones(40), None, r"Expected 2D array, got 1D array"),
        ([["a", "b"]] * 9, None, r"."),
    ],
)
def test_mistakes_are_told_in_a_sentence(rows, k_range, sentence):
    with pytest.raises(UserError, match=sentence):
        suggest_k(rows, k_range, metric="cosine")


def test_an_unknown_metric_is_told():
    with pytest.raises(UserError, match=r"there is no metric 'manhattan': give one of euclidean, cosine\."):
        suggest_k(groups()[0], metric="manhattan")


def test_groups_side_by_side_far_from_all_others():
    random = np.random.default_rng(0)
    near = 1e-2 * random.normal(size=(400, 4))
    far = [[1000, y, 0, 0] + 1e-3 * random.normal(size=(100, 4)) for y in (0, 0.1)]
    assert suggest_k(np.vstack([near, *far]).astype(np.float32)).k >= 2

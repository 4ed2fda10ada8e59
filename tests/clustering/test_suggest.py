"""The choice of k: its figures against plain computations, its vote by hand, its answers on groups of known number."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

from shoal.clustering import suggest_k
from shoal.clustering.suggest import sweep
from shoal.clustering.suggest.suggest import Candidate, Suggestion, elect
from shoal.clustering.suggest.sweep import Sweep, coding_length, neighbour_distance
from shoal.errors import UserError


def groups(k=5, n=300, d=3, seed=0, spread=0.5):
    """Rows about k far centres, and their group."""
    rows, labels = make_blobs(n, d, centers=k, cluster_std=spread, center_box=(-12, 12), random_state=seed)
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def seen():
    """A suggestion with UMAP itself, made once; slow."""
    return suggest_k(groups(d=8)[0], metric="euclidean", seed=1)


def naive_bits(rows, labels, distortion):
    n, d = rows.shape
    rows, total = rows - rows.mean(0), 0.0
    for cluster in np.unique(labels):
        own = rows[labels == cluster]
        mean = own.mean(0)
        covariance = sum(np.outer(x - mean, x - mean) for x in own) / len(own)
        volume = np.linalg.det(np.eye(d) + d / distortion * covariance)
        total += (len(own) + d) / 2 * math.log2(volume) + d / 2 * math.log2(1 + mean @ mean / distortion)
        total -= len(own) * math.log2(len(own) / n)
    return total / n


def test_coding_length_is_the_equation():
    rows, labels = groups(d=4)
    labels = np.array([3, 9, 4, 7, 5])[labels]
    found = coding_length(torch.from_numpy(rows + 100), torch.from_numpy(labels), 0.3)
    assert found == pytest.approx(naive_bits(rows.astype(float), labels, 0.3), rel=1e-4)


def test_to_split_a_gaussian_costs_and_to_split_two_saves():
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    one, halves = torch.zeros(2000, dtype=torch.int64), (rows[:, 0] > 0).long()
    assert coding_length(rows, halves, 0.01) > coding_length(rows, one, 0.01)
    rows[:, 0] += 20 * halves
    assert coding_length(rows, halves, 0.01) < coding_length(rows, one, 0.01) - 1


def test_neighbour_distance_is_scikit_learns():
    rows = groups(n=120)[0]
    distances, _ = NearestNeighbors(n_neighbors=8).fit(rows).kneighbors()
    assert neighbour_distance(torch.from_numpy(rows), 8) == pytest.approx(np.sqrt((distances[:, 7] ** 2).mean()), 1e-5)


def test_rows_that_lie_on_each_other_are_some_way_apart():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).repeat(50, 1)
    assert neighbour_distance(rows, 5) == pytest.approx(2.5e-3)


def test_a_vote_by_hand():
    # Two halves; the first criterion: 2 > 1 > 0 clearly. The second: 0 and 1 draw, since one is better on each half.
    first = torch.tensor([[0.0, 0.1], [1.0, 1.1], [2.0, 2.1]])
    second = torch.tensor([[5.0, 6.0], [6.0, 5.0], [1.0, 1.0]])
    election = elect(torch.stack([first, second], 2))
    assert election.votes.tolist() == [(-2 + 1) / 4, (0 + 1) / 4, (2 - 2) / 4]
    assert election.winner == 1
    assert election.favourites.tolist() == [2, 0]
    assert [tied.tolist() for tied in election.tied] == [[2], [0, 1]]


def test_a_vote_knows_no_scales():
    scores = torch.rand(7, 6, 3, generator=torch.Generator().manual_seed(0))
    scaled = scores * torch.tensor([1.0, 1000.0, 0.01]) + torch.tensor([0.0, -5.0, 3.0])
    assert torch.equal(elect(scores.double()).votes, elect(scaled.double()).votes)


def test_a_sweep_scores_as_scikit_learn_would(monkeypatch):
    rows, _ = groups(k=4)
    x = torch.from_numpy(rows)
    monkeypatch.setattr(sweep, "N_SPLITS", 1)
    found = Sweep([x], x, torch.Generator().manual_seed(0))
    found.measure([4])
    labels = [sweep._clusters(half, 4).numpy() for half in found.halves]
    agreement = adjusted_rand_score(*labels)
    for half, clusters, scores in zip(found.halves, labels, found.scores[4].tolist(), strict=True):
        own = half.index.numpy()
        separation = silhouette_score(rows[own], clusters[own])
        one = naive_bits(rows[own].astype(float), np.zeros(len(own)), half.distortion)
        saved = one - naive_bits(rows[own].astype(float), clusters[own], half.distortion)
        assert scores == pytest.approx([separation, agreement, saved], rel=1e-4)
    a, b = (half.index for half in found.halves)
    assert sorted(torch.cat([a, b]).tolist()) == list(range(len(rows)))


@pytest.mark.slow
def test_groups_are_counted(seen):
    assert seen.k == 5
    assert seen.interval == (5, 5)
    assert seen.clear
    assert seen.best.stability > 0.95


@pytest.mark.slow
def test_candidates_are_ranked_and_the_gap_beside_the_best_is_closed(seen):
    scores = [candidate.score for candidate in seen.candidates]
    assert scores == sorted(scores, reverse=True)
    assert {4, 5, 6} <= {candidate.k for candidate in seen.candidates}
    assert {candidate.k for candidate in seen.candidates} <= set(range(2, math.isqrt(300) + 1))
    assert min(map(abs, scores)) <= 1


@pytest.mark.usefixtures("no_umap")
@pytest.mark.parametrize(
    ("k", "seed"), [(3, 1), pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(8, 3, marks=pytest.mark.slow)]
)
def test_any_number_of_groups_is_found_by_arrays_and_tensors(k, seed):
    rows, _ = groups(k, n=200, seed=seed, spread=0.4)
    found = suggest_k(rows, metric="euclidean", seed=seed)
    assert found.k == k
    assert found.interval[0] <= k <= found.interval[1]
    assert suggest_k(torch.from_numpy(rows), metric="euclidean", seed=seed) == found


@pytest.mark.usefixtures("no_umap")
def test_one_cloud_has_no_clear_structure():
    rows = np.random.default_rng(0).standard_normal((200, 3))
    found = suggest_k(rows, (2, 12), metric="euclidean")
    assert not found.clear
    assert found.interval == (2, 12)
    assert "no clear structure" in found.as_text()


@pytest.mark.usefixtures("no_umap")
def test_the_range_is_kept_and_its_end_is_told():
    found = suggest_k(groups(8, n=200, seed=3, spread=0.4)[0], (2, 5), metric="euclidean")
    assert {candidate.k for candidate in found.candidates} == {2, 3, 4, 5}
    assert found.k == 5
    assert "try beyond 5" in found.as_text()


@pytest.mark.usefixtures("no_umap")
def test_a_sample_is_enough(monkeypatch):
    monkeypatch.setattr("shoal.clustering.suggest.suggest.MAX_ROWS", 200)
    rows = torch.from_numpy(groups(4, n=900)[0])
    found = suggest_k(rows, metric="euclidean")
    assert (found.k, found.n_rows) == (4, 200)
    assert max(candidate.k for candidate in found.candidates) == 14  # the square root of 200


@pytest.mark.usefixtures("no_umap")
def test_the_cosine_looks_at_directions():
    directions = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    g = torch.Generator().manual_seed(2)
    rows = directions[torch.arange(400) % 4] + 0.03 * torch.randn(400, 3, generator=g)
    assert suggest_k(rows * 5, metric="cosine").k == 4


def test_text_is_a_table_best_first():
    candidates = (Candidate(4, 0.5, 0.25, 0.875, 1.5), Candidate(3, -0.25, 0.125, 0.75, -0.5))
    text = Suggestion(candidates, (3, 4), True, 100, "cosine", ("A note.",)).as_text()
    assert [line.split() for line in text.splitlines()] == [
        ["k", "score", "silhouette", "stability", "saved", "bits"],
        ["4", "0.50", "0.250", "0.875", "1.500"],
        ["3", "-0.25", "0.125", "0.750", "-0.500"],
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
        (groups(n=40)[0], (1, 3), r"^k_range starts at 1: give 2 or more, since one cluster"),
        (groups(n=40)[0], (2, 40), r"^k_range ends at 40: give at most 20, half of the 40 rows that are looked at\.$"),
        (groups(n=12)[0], None, r"^12 rows are too few to choose a number of clusters: give 20 at least\.$"),
        (spoilt(np.nan, 1), None, r"NaN or infinity: leave"),
        (spoilt(0.0), None, r"^features hold rows of zeros, which have no cosine: leave these out, or give another"),
        (np.ones((40, 3)), None, r"^all rows have the same direction: there is nothing to cluster\.$"),
        (np.ones(40), None, r"Expected 2D array, got 1D array"),
    ],
)
def test_mistakes_are_told_in_a_sentence(rows, k_range, sentence):
    with pytest.raises(UserError, match=sentence):
        suggest_k(rows, k_range, metric="cosine")

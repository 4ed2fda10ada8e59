"""Probabilities say how often images alike are in the same cluster, keep their order, and need no labels."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import ArpackNoConvergence
from sklearn.datasets import load_digits
from tests.clustering.test_saved import KINDS, rows

from shoal.clustering import KMeans, agreement
from shoal.clustering.agreement import neighbour_agreement
from shoal.clustering.calibration import (
    Calibrated,
    CalibratedPosterior,
    Calibration,
    _curve,
    fit_calibration,
    log_probabilities,
)

ALIKE = {name: kind for name, kind in KINDS.items() if name != "TEMI"}
CURVE = Calibration(0.5, (-1.0, 0.5, 3.0), (-0.8, 0.1, 1.5))


def groups(n=400, k=4, spread=0.15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    return torch.eye(k, 6)[labels] + spread * torch.randn(n, 6, generator=generator), labels


def test_agreement_beside_a_loop_over_rows(monkeypatch):
    """By the definition: neighbours' clusters by the votes of sampled rows, matched, of the better two of four."""
    x, labels = groups(60, 3, 0.4)
    x, samples, found = x.double(), [], []

    def clusters(sample, k, _metric, seed):
        generator = torch.Generator().manual_seed(seed)
        samples.append([int((x == row).all(1).nonzero()) for row in sample])
        found.append(torch.randint(k, (len(sample),), generator=generator))
        return found[-1]

    monkeypatch.setattr(agreement, "spectral_clusters", clusters)
    asked, shares = neighbour_agreement(x, labels, "euclidean", 0)
    assert asked.tolist() == list(range(60))
    assert len(samples) == 4
    far = np.linalg.norm(x.numpy()[:, None] - x.numpy()[None], axis=2)
    each = []
    for sample, own in zip(samples, found, strict=True):
        assert len(sample) == 45
        votes = [
            np.bincount(own[far[row, sample].argsort(kind="stable")[:10]], minlength=3).argmax() for row in range(60)
        ]
        near = [[other for other in far[row].argsort(kind="stable") if other != row][:10] for row in range(60)]
        read = sorted({other for others in near for other in others})
        counts = np.zeros((3, 3), int)
        for row in read:
            counts[votes[row], labels[row]] += 1
        matched = linear_sum_assignment(counts, maximize=True)[1]
        each.append([np.mean([matched[votes[other]] == labels[row] for other in near[row]]) for row in range(60)])
    better = sorted(each, key=np.mean)[2:]
    np.testing.assert_allclose(shares, np.mean(better, 0), atol=1e-12)


def test_clear_groups_are_certain_and_random_clusters_are_not():
    x, labels = groups()
    _, shares = neighbour_agreement(x, labels, "cosine", 0)
    assert shares.mean() > 0.99
    random = torch.randint(4, (400,), generator=torch.Generator().manual_seed(1))
    _, shares = neighbour_agreement(x, random, "cosine", 0)
    assert shares.mean() < 0.35
    # Two groups in one cluster, and one that is divided: three of four groups are matched at most.
    wrong = torch.tensor([0, 0, 1, 2])[labels].where((labels < 3) | (torch.arange(400) % 8 < 4), torch.tensor(3))
    _, shares = neighbour_agreement(x, wrong, "cosine", 0)
    assert 0.55 < shares.mean() < 0.7  # right would be 0.625


def test_the_same_seed_gives_the_same_and_rows_without_a_cluster_have_no_part():
    x, labels = groups(300, spread=0.4)
    labels[::5] = -1
    asked, shares = neighbour_agreement(x, labels, "cosine", 3)
    assert (labels[asked] >= 0).all()
    again = neighbour_agreement(x, labels, "cosine", 3)
    assert torch.equal(again[0], asked)
    assert torch.equal(again[1], shares)


def test_spectra_that_do_not_converge_agree_with_nothing(monkeypatch):
    def fail(*_):
        raise ArpackNoConvergence("no convergence", np.zeros(0), np.zeros((0, 0)))

    x, labels = groups()
    monkeypatch.setattr("sklearn.cluster.SpectralClustering.fit", fail)
    _, shares = neighbour_agreement(x, labels, "cosine", 0)
    assert shares.mean() < 0.3


def test_many_rows_cost_no_more_than_a_sample(monkeypatch):
    monkeypatch.setattr(agreement, "MAX_ROWS", 100)
    monkeypatch.setattr(agreement, "ASKED", 30)
    x, labels = groups()
    asked, shares = neighbour_agreement(x, labels, "cosine", 0)
    assert len(asked) == len(shares) == 30
    assert shares.mean() > 0.95


@pytest.mark.parametrize(("n", "k", "distinct"), [(20, 1, 20), (2, 2, 2), (30, 25, 30), (100, 2, 1), (100, 10, 12)])
def test_too_little_to_measure(n, k, distinct):
    """One cluster, two rows, hardly more rows than clusters, equal rows, and few that differ."""
    x = torch.randn(distinct, 4, generator=torch.Generator().manual_seed(0))[torch.arange(n) % distinct]
    labels = torch.arange(n) % k
    assert neighbour_agreement(x, labels, "euclidean", 0) is None
    assert fit_calibration(KMeans(1).fit(x), x, labels, "euclidean", 0) is None


def test_no_row_has_a_cluster():
    x, labels = groups(40)
    assert fit_calibration(KMeans(4).fit(x), x, torch.full_like(labels, -1), "cosine", 0) is None


@pytest.mark.parametrize("k", [2, 5])
def test_the_most_probable_cluster_gets_the_curve_and_stays_the_most_probable(k):
    logs = 3 * torch.randn(500, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = CalibratedPosterior(CURVE)(logs)
    torch.testing.assert_close(found.sum(1), torch.ones(500, dtype=torch.float64))
    assert found.min() >= 0
    assert torch.equal(found.argmax(1), logs.argmax(1))
    shares = (logs / 0.5).softmax(1)
    for row, before, after in zip(logs, shares.tolist(), found.tolist(), strict=True):
        top = int(row.argmax())
        odds = np.log(before[top] / sum(each for c, each in enumerate(before) if c != top))
        line = np.interp(odds, CURVE.odds, CURVE.right) + 0.01 * (min(odds + 1, 0) + max(odds - 3, 0))
        assert after[top] == pytest.approx(max(1 / (1 + np.exp(-line)), 1 / k + 0.01 * (before[top] - 1 / k)), abs=1e-9)
    order = shares.amax(1).argsort()
    assert (found.amax(1)[order].diff() >= -1e-12).all()


class Spots:
    """Of x in one dimension: cluster 0 below 1, cluster 1 from 2 on, and none in between, where probabilities are 0."""

    def predict_proba(self, X):
        return torch.cat([0.9 * (X < 1) + 0.1 * (X >= 2), 0.1 * (X < 1) + 0.9 * (X >= 2)], 1)

    def as_module(self):
        module = torch.nn.Module()
        module.forward = self.predict_proba
        return module


def test_rows_in_no_cluster_stay_in_none():
    x = torch.tensor([[0.0], [1.5], [3.0]])
    found = Calibrated(Spots(), CURVE)
    for shares in (found.predict_proba(x), found.as_module()(x)):
        assert shares[1].tolist() == [0, 0]
        torch.testing.assert_close(shares.sum(1), torch.tensor([1.0, 0.0, 1.0]))
        assert shares.argmax(1)[[0, 2]].tolist() == [0, 1]
    alone = CalibratedPosterior(CURVE)(torch.tensor([[0.0], [-torch.inf]]).double())
    assert alone.tolist() == [[1.0], [0.0]]


def test_extreme_scores_stay_probabilities():
    logs = torch.tensor([[0.0, -1e6], [0.0, 0.0], [-690.0, 0.0], [1e30, -1e30]], dtype=torch.float64)
    for calibration in (CURVE, Calibration(1e-6, (690.0,), (6.0,)), Calibration(1e9, (0.0,), (-3.0,))):
        found = CalibratedPosterior(calibration)(logs)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))
    assert CalibratedPosterior(CURVE)(torch.zeros(3, 1).double()).tolist() == [[1.0]] * 3


@pytest.mark.usefixtures("no_umap")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("clusterer", ALIKE.values(), ids=ALIKE)
def test_every_clusterer_is_calibrated_in_the_same_way(clusterer, metric):
    x, new = rows(), rows(30, seed=1)
    fitted = clusterer.set_params(metric=metric).fit(x)
    calibration = fit_calibration(fitted, x, fitted.labels_, metric, 0)
    kept = Calibration(**json.loads(json.dumps(asdict(calibration))))
    calibrated, network = (Calibrated(fitted, each) for each in (calibration, kept))
    shares = calibrated.predict_proba(new)
    assert shares.dtype == torch.float32
    assert torch.equal(shares, network.predict_proba(new))
    assert torch.equal(shares.argmax(1), fitted.predict(new))
    torch.testing.assert_close(shares.sum(1), torch.ones(30))
    torch.testing.assert_close(network.as_module()(new), shares, atol=1e-5, rtol=1e-4)
    # Order is kept: of two rows that one is surer of, so is the other.
    logs = log_probabilities(fitted, new)
    order = (logs / calibration.temperature).softmax(1).amax(1).argsort()
    assert (shares.amax(1)[order].diff() >= -1e-6).all()


def test_unanimous_votes_that_differ_by_rounding_are_one_knot():
    odds = 2 + 1e-15 * torch.arange(90, dtype=torch.float64)
    agreement = torch.linspace(0, 1, 90, dtype=torch.float64)
    knots, right = _curve(odds, agreement)
    assert (len(knots), right) == (1, (0.0,))
    knots, _ = _curve(torch.cat([odds[:60] - 1, odds]), torch.cat([agreement[:60] / 4, 0.5 + agreement / 2]))
    assert knots == pytest.approx((1, 2))


def test_temi_calibrates_itself():
    fitted = KINDS["TEMI"].fit(rows())
    assert fit_calibration(fitted, rows(), fitted.labels_, "cosine", 0) is None


def test_digits_are_right_about_as_often_as_their_confidence_says():
    """Of k-means and a mixture that are over- and underconfident without; the margins are those of the measurement."""
    given = load_digits()
    x, classes = torch.from_numpy(given.data).float(), given.target
    fitted = KMeans(10, random_state=10).fit(x)
    before = fitted.predict_proba(x).amax(1).mean()
    calibrated = Calibrated(fitted, fit_calibration(fitted, x, fitted.labels_, "euclidean", 10))
    after = calibrated.predict_proba(x).amax(1).mean()
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (fitted.labels_.numpy(), classes), 1)
    accuracy = counts[linear_sum_assignment(counts, maximize=True)].sum() / len(x)
    assert abs(after - accuracy) < 0.06 < 0.09 < abs(before - accuracy)


@pytest.mark.parametrize(
    "damaged",
    [
        (0.0, (0.0,), (0.0,)),
        (1.0, (), ()),
        (1.0, (0.0, 0.0), (0.0, 1.0)),
        (1.0, (0.0, 1.0), (1.0, 0.0)),
        (1.0, (0.0, 1.0), (0.0,)),
        (1.0, (0.0,), (float("nan"),)),
    ],
)
def test_a_damaged_calibration_is_refused(damaged):
    with pytest.raises(ValueError, match="not a rising curve"):
        Calibration(*damaged)


def test_a_row_that_belongs_nowhere_stays_there():
    class Votes:
        def predict_proba(self, x):
            return x

        def as_module(self):
            return torch.nn.Identity()

    shares = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]])
    calibrated = Calibrated(Votes(), Calibration(0.7, [-1.0, 2.0], [-0.5, 1.5]))
    for found in (calibrated.predict_proba(shares), calibrated.as_module()(shares)):
        assert found[0].tolist() == [0.0, 0.0, 0.0]
        torch.testing.assert_close(found[1:].sum(1), torch.ones(2))
        assert found[1:].argmax(1).tolist() == [1, 0]

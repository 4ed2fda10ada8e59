"""Confidence and calibration beside loops over images."""

import pytest
import torch
from sklearn.datasets import load_digits

from shoal.clustering.kmeans import kmeans
from shoal.evaluation.calibration import BINS, calibration, kmeans_confidence
from shoal.evaluation.metrics import matched_class
from shoal.types import Clustering


def test_confidence_of_plain_kmeans_is_calibrated_and_needs_no_labels():
    given = load_digits()
    features, classes = torch.from_numpy(given.data).float(), torch.from_numpy(given.target)
    found = kmeans(features, 10, generator=torch.Generator().manual_seed(0))
    clusters = torch.cat([found.labels[:-1], torch.tensor([-1])])
    sure = kmeans_confidence(features, Clustering(clusters, found.centers, found.distances), 0)
    assert sure[-1] == 0
    right = torch.from_numpy(matched_class(classes, found.labels, 10))[found.labels] == classes
    assert 0.6 < right.float().mean() < 0.9  # hard enough to tell
    assert abs(float(sure[:-1].mean() - right[:-1].float().mean())) < 0.08
    assert calibration(sure[:-1], right[:-1]).error < 0.08
    empty = Clustering(torch.full((1797,), -1), found.centers, found.distances)
    assert not kmeans_confidence(features, empty, 0).any()


def test_a_loop_over_bins():
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(500, generator=generator)
    right = torch.rand(500, generator=generator) < sure**2
    found = calibration(sure, right)
    error, bins = 0.0, 0
    for b in range(BINS):
        rows = [i for i, c in enumerate(sure.tolist()) if b / BINS < c <= (b + 1) / BINS]
        confidence = sum(sure[i].item() for i in rows) / len(rows)
        accuracy = sum(right[i].item() for i in rows) / len(rows)
        error += len(rows) / 500 * abs(confidence - accuracy)
        assert (found.bins[b].images, found.bins[b].low, found.bins[b].high) == (len(rows), b / BINS, (b + 1) / BINS)
        assert found.bins[b].confidence == pytest.approx(confidence)
        assert found.bins[b].accuracy == pytest.approx(accuracy)
        bins += 1
    assert len(found.bins) == bins
    assert found.error == pytest.approx(error)
    assert found.confidence == pytest.approx(sure.mean().item())
    assert found.accuracy == pytest.approx(right.float().mean().item())


def test_edges_and_empty_bins():
    found = calibration(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([False, True, False]))
    assert [(b.low, b.images, b.accuracy) for b in found.bins] == [(0.0, 1, 0.0), (14 / 15, 2, 0.5)]
    assert found.error == pytest.approx(1 / 3)


def test_the_sure_and_right_are_perfectly_calibrated():
    assert calibration(torch.ones(5), torch.ones(5, dtype=torch.bool)).error == 0


def test_adaptive_bins_have_equally_many_images():
    generator = torch.Generator().manual_seed(1)
    sure = torch.rand(450, generator=generator) ** 0.1  # nearly all in the last bins of equal width
    right = torch.rand(450, generator=generator) < 0.7 * sure
    order = sorted(range(450), key=lambda i: sure[i].item())
    groups = [order[i : i + 30] for i in range(0, 450, 30)]
    expected = sum(abs(sum(sure[i].item() - right[i].item() for i in group)) for group in groups) / 450
    assert calibration(sure, right).adaptive_error == pytest.approx(expected)


@pytest.mark.parametrize("right", [[True] * 5 + [False] * 5, [False] * 5 + [True] * 5])
def test_adaptive_bins_do_not_depend_on_the_order_of_ties(right):
    assert calibration(torch.full((10,), 0.5), torch.tensor(right)).adaptive_error == pytest.approx(0)

"""Confidence and calibration beside loops over images."""

import math

import pytest
import torch

from shoal.evaluation.calibration import BINS, TEMPERATURE, calibration, confidences


def test_confidence_is_a_softmax_over_the_cosines():
    generator = torch.Generator().manual_seed(0)
    x, centers = torch.randn(20, 5, generator=generator), torch.randn(4, 5, generator=generator)
    found = confidences(x, centers)
    for row, sure in zip(x, found.tolist(), strict=True):
        cosines = [torch.cosine_similarity(row, center, dim=0).item() for center in centers]
        odds = [math.exp(c / TEMPERATURE) for c in cosines]
        assert sure == pytest.approx(max(odds) / sum(odds), rel=1e-4)


def test_confidence_has_a_range():
    centers = torch.eye(4)
    assert confidences(torch.ones(1, 4), centers).item() == pytest.approx(1 / 4)
    assert confidences(centers, centers).min() > 0.999
    assert confidences(torch.randn(3, 4), centers[:1]).tolist() == [1, 1, 1]


def test_many_rows_are_taken_in_parts(monkeypatch):
    x, centers = torch.randn(50, 5), torch.randn(4, 5)
    whole = confidences(x, centers)
    split = torch.split
    monkeypatch.setattr(torch, "split", lambda tensor, _size: split(tensor, 7))
    torch.testing.assert_close(confidences(x, centers), whole)


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
    assert [(b.low, b.images, b.accuracy) for b in found.bins] == [(0.0, 1, 0.0), (0.9, 2, 0.5)]
    assert found.error == pytest.approx(1 / 3)


def test_the_sure_and_right_are_perfectly_calibrated():
    assert calibration(torch.ones(5), torch.ones(5, dtype=torch.bool)).error == 0

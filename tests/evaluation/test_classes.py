"""The table of classes beside a count by hand."""

import numpy as np
import pytest
import torch

from shoal.evaluation import clustering_scores
from shoal.evaluation.metrics import class_scores, matched_class


def test_a_count_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, -1, 2])
    pred = torch.tensor([3, 3, 3, 1, 1, 1, 0, 3, 3, -1])
    rows = class_scores(labels, pred, 4, ("ant", "bee"))
    assert [(row.name, row.images, row.cluster) for row in rows] == [("ant", 4, 3), ("bee", 2, 1), ("2", 2, 0)]
    assert [row.recall for row in rows] == [3 / 4, 1, 1 / 2]
    assert [row.precision for row in rows] == [3 / 4, 2 / 3, 1]
    assert matched_class(labels, pred, 4).tolist() == [2, 1, -1, 0]


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(6, 6), (3, 8), (8, 3)])
def test_recalls_add_up_to_the_accuracy(n_classes, n_clusters):
    rng = np.random.default_rng(0)
    labels, pred = rng.integers(n_classes, size=300), rng.integers(n_clusters, size=300)
    rows = class_scores(labels, pred, n_clusters, ())
    accuracy = clustering_scores(labels, pred)["acc"]
    assert sum(row.recall * row.images for row in rows) / 300 == pytest.approx(accuracy)
    matched = matched_class(labels, pred, n_clusters)
    assert (matched[pred] == labels).mean() == pytest.approx(accuracy)
    for row in rows:
        assert (row.cluster is None) == (row.precision is None)
        assert row.cluster is None or matched[row.cluster] == int(row.name)
    assert sum(row.cluster is not None for row in rows) == min(n_classes, n_clusters)


def test_classes_without_an_image_have_no_row():
    rows = class_scores(np.array([0, 2]), np.array([0, 1]), 2, ("a", "b", "c"))
    assert [row.name for row in rows] == ["a", "c"]
    assert class_scores(np.array([-1]), np.array([0]), 2, ("a",)) == []


def test_as_many_classes_and_clusters_as_rows():
    """A table of both would take 20 GB."""
    labels = np.arange(50_000)
    pred = np.random.default_rng(0).permutation(50_000)
    rows = class_scores(labels, pred, 60_000, ())
    assert [row.cluster for row in rows] == pred.tolist()
    assert {(row.recall, row.precision) for row in rows} == {(1, 1)}
    matched = matched_class(labels, pred, 60_000)
    np.testing.assert_array_equal(matched[pred], labels)
    assert (matched == -1).sum() == 10_000


def test_an_empty_cluster_has_no_precision():
    (row,) = class_scores(np.array([0, 0]), np.array([-1, 1]), 2, ("a",))
    assert (row.cluster, row.recall, row.precision) == (1, 1.0, 1.0)
    rows = class_scores(np.array([0, 1]), np.array([0, 0]), 2, ("a", "b"))
    assert [(row.recall, row.precision) for row in rows] in ([(1, 0.5), (0, None)], [(0, None), (1, 0.5)])

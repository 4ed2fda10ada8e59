"""The words that terminal and report share."""

import dataclasses

import torch
from tests.evaluation.examples import blobs, clustered, truth_of

from shoal.evaluation import comparison, evaluate
from shoal.evaluation.result import Baseline


def found(*rows, labelled=True):
    features, labels = blobs()
    truth = truth_of(labels if labelled else torch.full_like(labels, -1))
    return dataclasses.replace(evaluate(truth, features, clustered(features), 0), baselines=rows)


def plain(method="k-means", of="features", sampled=None, failed=None, labelled=True):
    scores = {"acc": 0.5, "purity": 0.6, "nmi": 0.4, "ari": 0.3, "fmi": 0.2} if labelled and not failed else {}
    return Baseline(method, of, sampled, scores, None if failed else 0.7, failed)


def test_nothing_to_compare_with():
    assert comparison(found()) is None


def test_the_clusters_come_first():
    evaluated = found(plain(), plain("UMAP + k-means", sampled=10000), plain(of="backbone"), plain(of="pixels"))
    table = comparison(evaluated)
    assert table.keys == ["acc", "purity", "nmi", "ari", "agreement"]
    assert [row.name for row in table.rows] == [
        "These clusters",
        "The same k-means, other seeds",
        "UMAP + k-means on the features *",
        "k-means on the backbone",
        "k-means on pixels",
    ]
    assert table.rows[0].values == {key: evaluated.scores[key] for key in table.keys[:-1]}
    assert table.rows[1].values == {"acc": 0.5, "purity": 0.6, "nmi": 0.4, "ari": 0.3, "agreement": 0.7}
    assert table.notes[0] == "* on 10000 images drawn at random."
    assert table.notes[-1].endswith("and training where it is ahead of those on pixels.")


def test_features_alone_say_nothing_of_pixels_or_draws():
    notes = " ".join(comparison(found(plain(), plain("UMAP + k-means"))).notes)
    assert "pixels" not in notes
    assert "*" not in notes


def test_without_labels():
    table = comparison(found(plain(labelled=False), plain(of="pixels", labelled=False), labelled=False))
    assert table.keys == ["agreement"]
    assert [row.values for row in table.rows] == [{}, {"agreement": 0.7}, {"agreement": 0.7}]
    assert "try another number of clusters" in table.notes[1]
    assert "pixels do not show" in table.notes[2]


def test_a_failure_says_why():
    table = comparison(found(plain(), plain("UMAP + k-means", failed="it went wrong")))
    assert table.rows[2].values == {}
    assert "UMAP + k-means on the features: it went wrong" in table.notes

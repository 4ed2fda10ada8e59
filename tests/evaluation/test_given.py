"""Scores, neighbours and probes of arrays and tensors, and of numbers and names."""

import numpy as np
import pytest
import sklearn.metrics
import torch

from shoal.clustering import adjusted_rand, calinski_harabasz, davies_bouldin, silhouette
from shoal.errors import UserError
from shoal.evaluation import (
    SGD_PROBE,
    Truth,
    clustering_scores,
    knn_leave_one_out,
    knn_predict,
    linear_predict,
    nearest,
    probe,
)

RANDOM = np.random.default_rng(0)
TRUE = RANDOM.integers(0, 3, 200)
PRED = np.where(RANDOM.random(200) < 0.2, RANDOM.integers(0, 3, 200), TRUE)
NAMES = np.array(["ape", "bee", "cow"])
X = RANDOM.normal(size=(200, 5)) + 6 * np.eye(5)[TRUE]

KINDS = {
    "int8": lambda y: y.astype(np.int8),
    "uint64": lambda y: y.astype(np.uint64),
    "list": lambda y: y.tolist(),
    "tuple": tuple,
    "tensor": torch.from_numpy,
    "float": lambda y: y.astype(float),
    "float tensor": lambda y: torch.from_numpy(y).float(),
    "half": lambda y: torch.from_numpy(y).half(),
    "bfloat16": lambda y: torch.from_numpy(y).bfloat16(),
    "fractions": lambda y: y / 2 + 0.25,
    "names": lambda y: NAMES[y],
    "list of names": lambda y: NAMES[y].tolist(),
    "objects": lambda y: NAMES[y].astype(object),
    "bytes": lambda y: NAMES[y].astype("S"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_labels_of_every_kind(kind):
    expected = clustering_scores(TRUE, PRED)
    assert expected["ari"] == pytest.approx(sklearn.metrics.adjusted_rand_score(TRUE, PRED))
    assert clustering_scores(kind(TRUE), PRED) == pytest.approx(expected)
    assert clustering_scores(TRUE, kind(PRED)) == pytest.approx(expected)
    assert silhouette(X, kind(PRED), metric="euclidean") == pytest.approx(sklearn.metrics.silhouette_score(X, PRED))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_bools(kind):
    one, other = kind(TRUE > 0), kind(PRED > 0)
    assert adjusted_rand(one, other) == pytest.approx(sklearn.metrics.adjusted_rand_score(TRUE > 0, PRED > 0))


def test_negative_numbers_are_none_whatever_their_type():
    labels = np.where(np.arange(200) < 50, -1, TRUE)
    expected = adjusted_rand(labels, PRED)
    assert expected == adjusted_rand(TRUE[50:], PRED[50:])
    for kind in (np.float32, np.int16):
        assert adjusted_rand(labels.astype(kind), PRED) == expected
    assert adjusted_rand(np.where(labels < 0, -1, TRUE + 0.5), PRED) == expected


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([None, "a"], "several types"),
        ([1, "a", None], "several types"),
        ([np.nan, 1.0], "labels hold NaN"),
        ([[1], [2]], r"shape \(2, 1\)"),
        ([[1], [1, 2]], "give one for each row"),
        (np.array([1j, 2]), "complex128"),
        (np.array([2**64 - 1, 0], dtype=np.uint64), "renumber them"),
        ("ab", r"shape \(\)"),
    ],
)
def test_what_are_no_labels(labels, sentence):
    with pytest.raises(UserError, match=sentence):
        adjusted_rand(labels, [0, 1])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_internal_scores_of_arrays(kind):
    rows = kind(X)
    assert davies_bouldin(rows, NAMES[PRED]) == pytest.approx(sklearn.metrics.davies_bouldin_score(X, PRED))
    assert calinski_harabasz(rows, PRED) == pytest.approx(sklearn.metrics.calinski_harabasz_score(X, PRED))
    with pytest.raises(UserError, match="200 rows of features and 199 labels"):
        silhouette(rows, PRED[1:], metric="cosine")


@pytest.mark.parametrize("offset", [0, 1.7e9])
def test_the_probe_and_neighbours_of_arrays_and_names(offset):
    bank, asked, names = X[50:] + offset, X[:50] + offset, NAMES[TRUE[50:]]
    ranked = linear_predict(asked, bank, names, SGD_PROBE, torch.Generator().manual_seed(0))
    assert ranked.shape == (50, 3)
    assert (ranked[:, 0] == NAMES[TRUE[:50]]).mean() > 0.95
    if not offset:  # far from 0 all rows have one direction
        assert (knn_predict(asked, bank, names, 5, 0.07)[:, 0] == NAMES[TRUE[:50]]).mean() > 0.95


def test_answers_are_of_the_kind_of_the_question():
    bank, asked = torch.from_numpy(X[50:]), torch.from_numpy(X[:50])
    of_tensors = knn_predict(asked, bank, torch.from_numpy(TRUE[50:]), 5, 0.07)
    of_arrays = knn_predict(X[:50], X[50:], TRUE[50:], 5, 0.07)
    assert isinstance(of_tensors, torch.Tensor)
    np.testing.assert_array_equal(of_arrays, of_tensors.numpy())
    np.testing.assert_array_equal(knn_predict(X[:50], X[50:], NAMES[TRUE[50:]], 5, 0.07), NAMES[of_arrays])
    np.testing.assert_array_equal(
        knn_leave_one_out(X, list(NAMES[TRUE]), 5, 0.07), NAMES[knn_leave_one_out(X, TRUE, 5, 0.07)]
    )


def test_rows_without_a_class_have_no_vote():
    labels = np.where(np.arange(150) < 60, -1, TRUE[50:])
    some = knn_predict(X[:50], X[50:], labels, 5, 0.07)
    np.testing.assert_array_equal(some, knn_predict(X[:50], X[110:], TRUE[110:], 5, 0.07))


def test_truth_of_names():
    truth = Truth(NAMES[TRUE], held_out=np.arange(200) < 60)
    assert truth.classes == list(NAMES)
    assert truth.clustered.all()
    one, other = (nearest(each, X) for each in (truth, Truth(torch.from_numpy(TRUE), torch.arange(200) < 60)))
    assert one == other
    assert probe(truth, X, 0).sgd.top1 > 0.95


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: knn_predict(X[:5], X[50:], TRUE, 5, 0.07), "150 rows of features and 200 labels"),
        (lambda: knn_predict(X[:5, :2], X, TRUE, 5, 0.07), "queries have 2 columns: give 5"),
        (lambda: knn_predict(X[:5], X, TRUE, 0, 0.07), "k=0 must be a whole number"),
        (lambda: knn_predict(X[:5], X, TRUE, 5, 0), "temperature=0 must be larger than 0"),
        (lambda: knn_predict(X[:5], X, TRUE * 0 - 1, 5, 0.1), "no row has a class"),
        (lambda: knn_leave_one_out(X, np.where(TRUE > 1, -1, TRUE), 5, 0.1), "rows have no class"),
        (lambda: Truth(NAMES[TRUE], held_out=[True]), r"held_out has shape \(1,\)"),
    ],
)
def test_what_does_not_fit(ask, sentence):
    with pytest.raises(UserError, match=sentence):
        ask()

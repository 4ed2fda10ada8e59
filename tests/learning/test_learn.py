import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests.clustering.refusing import refused

from shoal.clustering import LinearHead, clusterer_from, state_of
from shoal.learning import NOWHERE, UNKNOWN, Answer, Graph, learn
from shoal.learning import graph as graph_module
from shoal.learning.smoothing import smooth


def agree(labels, truth):
    return float((labels == truth).float().mean())


def answers_to(truth, rows):
    return [Answer(int(row), int(truth[row])) for row in rows]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("n_answers", [0, 1, 2, 12, 40, 240])
def test_answers_are_kept_and_the_rest_is_no_worse_than_before(blobs, metric, n_answers):
    features, truth, labels, _ = blobs
    rows = torch.randperm(240, generator=torch.Generator().manual_seed(1))[:n_answers]
    found = learn(features, labels, answers_to(truth, rows), metric=metric)
    assert torch.equal(found.labels[rows], truth[rows])
    assert (found.confidence[rows] == 1).all()
    assert agree(found.labels, truth) >= agree(labels, truth)
    assert found.changed == int((found.labels != labels).sum())
    if n_answers >= 12:
        assert agree(found.labels, truth) > 0.95
        assert agree(found.model.predict(features), truth) > 0.95


def test_without_answers_nothing_changes(blobs):
    features, _, labels, graph = blobs
    found = learn(features, labels, [], metric="euclidean", graph=graph)
    assert torch.equal(found.labels, labels)
    assert "kept" in found.used


def test_it_is_the_same_again_and_from_a_memory_map(blobs, tmp_path):
    features, truth, labels, _ = blobs
    np.save(tmp_path / "x.npy", features.numpy())
    on_disk = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    one, other = (learn(x, labels, answers_to(truth, range(30)), metric="cosine") for x in (features, on_disk))
    for name in ("labels", "confidence", "margin"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.used == other.used


def test_a_new_cluster_gets_its_images(blobs):
    features, truth, _, graph = blobs
    labels = torch.where(truth == 3, 1, truth)  # two groups in one cluster
    rows = range(24)
    found = learn(features, labels, answers_to(truth, rows), metric="euclidean", graph=graph)
    assert agree(found.labels, truth) > 0.9
    assert found.model.n_clusters == 4


def test_a_cluster_about_which_nothing_was_asked_keeps_its_images(blobs):
    features, truth, labels, graph = blobs
    rows = [row for row in range(60) if truth[row] != 2 and labels[row] != 2]
    found = learn(features, labels, answers_to(truth, rows), metric="euclidean", graph=graph)
    assert agree(found.labels[truth == 2], torch.tensor(2)) >= agree(labels[truth == 2], torch.tensor(2))


def test_two_clusters_that_are_one(blobs):
    features, truth, _, graph = blobs
    labels = truth.clone()
    labels[(truth == 0) & (torch.arange(240) % 8 == 0)] = 4  # half of group 0
    rows = range(80)
    found = learn(features, labels, answers_to(truth, rows), metric="euclidean", graph=graph)
    assert agree(found.labels, truth) > 0.95


def test_nowhere_is_for_that_image_alone(blobs):
    features, truth, labels, graph = blobs
    answers = [*answers_to(truth, range(20)), Answer(20, NOWHERE), Answer(21, NOWHERE)]
    found = learn(features, labels, answers, metric="euclidean", graph=graph)
    assert (found.labels == -1).nonzero()[:, 0].tolist() == [20, 21]
    assert found.confidence[20] == 0


def test_rows_without_a_cluster_stay_so_until_an_answer_gives_them_one(blobs):
    features, truth, labels, graph = blobs
    there = labels.clone()
    there[:10] = -1
    found = learn(features, there, answers_to(truth, range(5, 30)), metric="euclidean", graph=graph)
    assert (found.labels[:5] == -1).all()
    assert torch.equal(found.labels[5:10], truth[5:10])


@pytest.mark.parametrize("n_answers", [0, 30])
def test_an_image_is_in_none_of_the_clusters_that_were_ruled_out(blobs, n_answers):
    features, truth, labels, graph = blobs
    told = answers_to(truth, range(10, 10 + n_answers))
    answers = [*told, Answer(0, UNKNOWN, (int(labels[0]),)), Answer(1, UNKNOWN, (0, 1, 2, 3)), Answer(2, UNKNOWN, (9,))]
    found = learn(features, labels, answers, metric="euclidean", graph=graph)
    assert found.labels[0] != labels[0]
    assert found.labels[0] >= 0
    assert found.labels[1] == NOWHERE
    assert found.labels[2] >= 0


@pytest.mark.parametrize("out", [(), (0,), (1,), (1, 2), (0, 1, 2, 3)])
def test_an_image_without_a_cluster_may_be_in_none_of_some(blobs, out):
    features, truth, _, graph = blobs
    labels = truth.clone()
    labels[0] = -1
    found = learn(features, labels, [Answer(0, UNKNOWN, out)], metric="euclidean", graph=graph)
    assert torch.equal(found.labels, labels)
    assert found.confidence[0] == 0


def test_the_last_of_several_answers_counts(blobs):
    features, _, labels, graph = blobs
    found = learn(features, labels, [Answer(3, 0), Answer(3, NOWHERE), Answer(3, 2)], metric="euclidean", graph=graph)
    assert found.labels[3] == 2


def test_answers_that_contradict_the_neighbours_are_kept(blobs):
    features, truth, labels, graph = blobs
    wrong = [Answer(row, int(truth[row] + 1) % 4) for row in range(0, 240, 7)]
    found = learn(features, labels, wrong, metric="euclidean", graph=graph)
    assert all(found.labels[answer.row] == answer.cluster for answer in wrong)


@pytest.mark.parametrize(("n", "k"), list(itertools.product([1, 2, 30], [1, 2])))
def test_rows_that_are_all_equal(n, k):
    features, labels = torch.ones(n, 4), torch.arange(n) % k
    found = learn(features, labels, [Answer(0, 0)], metric="cosine")
    assert found.labels[0] == 0
    assert torch.isfinite(found.confidence).all()
    answered = learn(features, labels, [Answer(row, row % 3) for row in range(n)], metric="euclidean")
    assert torch.equal(answered.labels, torch.arange(n) % 3)


def test_more_clusters_than_answers():
    generator = torch.Generator().manual_seed(0)
    centers = 6 * torch.randn(150, 16, generator=generator)
    truth = torch.arange(900) % 150
    features = centers[truth] + torch.randn(900, 16, generator=generator)
    labels = truth.clone()
    labels[::30] = (labels[::30] + 1) % 150
    found = learn(features, labels, answers_to(truth, range(0, 900, 60)), metric="euclidean")
    assert agree(found.labels, truth) >= agree(labels, truth)


def test_rows_beyond_the_graph_are_answered_and_decided_about(blobs, monkeypatch):
    features, truth, labels, _ = blobs
    monkeypatch.setattr(graph_module, "MOST_ROWS", 100)
    graph = Graph.build(features, "euclidean")
    assert len(graph.rows) == 100
    found = learn(features, labels, answers_to(truth, range(60)), metric="euclidean", graph=graph)
    assert torch.equal(found.labels[:60], truth[:60])
    assert agree(found.labels, truth) > 0.95


def test_what_was_learned_is_saved_and_predicts_the_same(blobs):
    features, truth, labels, graph = blobs
    model = learn(features, labels, answers_to(truth, range(30)), metric="euclidean", graph=graph).model
    header, tensors = state_of(model)
    again = clusterer_from(header, load(save(tensors)))
    assert isinstance(again, LinearHead)
    assert torch.equal(again.predict_proba(features), model.predict_proba(features))
    torch.testing.assert_close(model.as_module()(features), model.predict_proba(features))


def test_refusals(blobs):
    features, _, labels, graph = blobs
    given = {"metric": "euclidean", "graph": graph}
    refused(learn, features, labels[:9], [], **given, match="one for each")
    refused(learn, features, labels, [Answer(240, 0)], **given, match="rows from 0 to 239")
    refused(learn, features, labels, [Answer(0, -3)], **given, match="clusters from 0 on")
    refused(learn, features, labels, [Answer(0, UNKNOWN, (-1,))], **given, match="clusters from 0 on")
    refused(learn, features, torch.full((240,), -1), [], **given, match="no row has a cluster")
    refused(learn, features[:50], labels[:50], [], **given, match="240 rows")
    refused(learn, features, labels, [], metric="cosine", graph=graph, match="metric")
    broken = features.clone()
    broken[7, 3] = torch.nan
    refused(learn, broken, labels, [], metric="euclidean", match="NaN")


def test_a_clustering_that_cuts_through_groups_is_smoothed():
    """Two long groups, which k-means halves across: neighbours know better."""
    rng = np.random.default_rng(0)
    along, side = rng.uniform(-1, 1, 600), np.repeat([0, 1], 300)
    x = torch.from_numpy(np.stack([along, 1.2 * side + 0.05 * rng.normal(size=600)], 1)).float()
    labels = torch.from_numpy(side).clone()
    border = torch.from_numpy(np.abs(along) > 0.9)
    labels[border] = 1 - labels[border]  # wrong far from the centres
    graph = Graph.build(x, "euclidean")
    found = smooth(labels, graph.coordinates.of(x), graph)
    assert (found == torch.from_numpy(side)).double().mean() > 0.97
    assert (smooth(torch.full((600,), -1), graph.coordinates.of(x), graph) == -1).all()


def test_small_clusters_are_not_smoothed():
    """The twenty neighbours of a row in a cluster of eight are mostly of other clusters, however far away."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([80, 80, 20, 8]))
    x = 3 * torch.randn(4, 32, generator=generator)[labels] + torch.randn(188, 32, generator=generator)
    graph = Graph.build(x, "euclidean")
    assert torch.equal(smooth(labels, graph.coordinates.of(x), graph), labels)
    told = [Answer(row, int(labels[row])) for row in (0, 100, 170)]
    assert torch.equal(learn(x, labels, told, metric="euclidean", graph=graph).labels, labels)


def test_where_the_clustering_is_kept_each_row_is_as_sure_as_its_own_cluster(blobs):
    x, _, labels, graph = blobs
    rows = torch.arange(len(x))[labels == 1][:2].tolist()
    found = learn(x, labels, [Answer(rows[0], 0), Answer(rows[1], 2)], metric="euclidean", graph=graph, smoothing=False)
    assert "kept" in found.used
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[rows] = False
    assert torch.equal(found.labels[rest], labels[rest])
    # Two of five weights speak against the cluster; elsewhere nothing does.
    assert found.confidence[rest].min() >= 0.3
    assert found.confidence[rest & (labels != 1)].min() >= 0.5


@pytest.mark.parametrize("exponent", [-100, 100])
def test_the_unit_of_the_features_does_not_matter_to_a_graph(exponent):
    x = torch.randn(80, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(Graph.build(2.0**exponent * x, "euclidean").index, Graph.build(x, "euclidean").index)

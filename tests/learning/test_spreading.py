import numpy as np
import pytest
import torch
from sklearn.semi_supervised import LabelSpreading
from tests.clustering.refusing import refused

from shoal.learning import Graph, spread


@pytest.fixture(scope="module")
def dense(blobs):
    """W as a loop over its definition makes it."""
    features, _, _, graph = blobs
    near = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf).argsort(1)[:, :20]
    weights = np.zeros((240, 240))
    for i, own in enumerate(near.tolist()):
        for j in own:
            weights[i, j] = weights[j, i] = 1
    return weights, graph.similarities


def test_the_graph_is_that_of_its_definition(dense):
    weights, similarities = dense
    degrees = weights.sum(1)
    np.testing.assert_allclose(similarities.toarray(), weights / np.sqrt(np.outer(degrees, degrees)), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95, 0.99])
def test_it_solves_the_equation(dense, alpha):
    similarities = dense[1]
    sources = np.random.default_rng(0).random((240, 3)).astype(np.float32)
    expected = np.linalg.solve(np.eye(240) - alpha * similarities.toarray().astype(float), sources)
    found = spread(similarities, sources, alpha=alpha, tolerance=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    rough = spread(similarities, sources, alpha=alpha)
    assert np.abs(rough - expected).max() <= 1e-4 * expected.max()


def test_labels_are_those_of_scikit_learn(dense, blobs):
    weights, similarities = dense
    truth = blobs[1].numpy()
    given = np.full(240, -1)
    given[:13] = truth[:13]
    rows = np.arange(240)[:, None]
    model = LabelSpreading(kernel=lambda _x, _y: weights, alpha=0.95, max_iter=2000, tol=1e-9).fit(rows, given)
    sources = np.eye(4, dtype=np.float32)[np.maximum(given, 0)] * (given >= 0)[:, None]
    found = spread(similarities, sources.astype(np.float32), tolerance=1e-6)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), model.label_distributions_, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 21])
def test_a_graph_of_few_rows(n):
    graph = Graph.build(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), "euclidean")
    assert graph.index.shape == (n, min(20, n - 1))
    sources = np.ones((n, 1), dtype=np.float32)
    np.testing.assert_allclose(spread(graph.similarities, sources), 20 if n > 1 else 1, rtol=1e-3)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_graph_comes_back_from_its_file(tmp_path, blobs, metric):
    graph = Graph.build(blobs[0], metric)
    graph.save(tmp_path / "graph.safetensors")
    again = Graph.load(tmp_path / "graph.safetensors")
    for name in ("rows", "index", "distances"):
        torch.testing.assert_close(getattr(again, name), getattr(graph, name), rtol=0, atol=0)
    torch.testing.assert_close(again.coordinates.of(blobs[0]), graph.coordinates.of(blobs[0]), rtol=0, atol=0)
    assert again.coordinates.metric == metric
    assert again.n == 240


def test_a_damaged_graph_is_refused(tmp_path, blobs):
    path = tmp_path / "graph.safetensors"
    path.write_bytes(b"no graph")
    refused(Graph.load, path, match="damaged")
    graph = blobs[3]
    Graph(graph.coordinates, 240, graph.rows, graph.index + 200, graph.distances).save(path)
    refused(Graph.load, path, match="built anew")
    refused(graph.check, blobs[0][:, :3], match="like the graph's")


def test_far_features_and_wide_ones_keep_their_neighbours():
    generator = torch.Generator().manual_seed(0)
    wide = torch.zeros(80, 300)
    wide[:, :4] = torch.randn(80, 4, generator=generator)
    near = Graph.build(wide, "euclidean")
    far = Graph.build(wide.double() + 1e5, "euclidean")
    assert near.coordinates.axes.shape == (300, 128)
    assert (near.index == far.index).float().mean() > 0.999


def test_refused_features():
    refused(Graph.build, torch.zeros(0, 3), "euclidean", match="no rows")
    refused(Graph.build, torch.full((9, 3), torch.nan), "euclidean", match="NaN")
    refused(Graph.build, torch.zeros(9, 3), "cosine", match="zero")

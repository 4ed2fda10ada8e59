"""The exported network, run by onnxruntime; clusterings as networks, held to estimators and to scikit-learn."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import nn

from shoal.clustering import clusterer_from
from shoal.clustering.calibration import Calibrated, Calibration
from shoal.clustering.kmeans.estimator import CentersPosterior
from shoal.clustering.mixtures.em import Mixture
from shoal.clustering.mixtures.gaussian import Responsibilities
from shoal.clustering.temi.heads import HEAD_SHAPES, Head
from shoal.clustering.umap import Votes
from shoal.errors import UserError
from shoal.export import onnx as onnx_module
from shoal.export.onnx import export_onnx

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-10"


@pytest.fixture(scope="module")
def rows():
    return torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) + 2


class Net(nn.Module):
    """A small network with what exporters stumble over: batch-norm, pooling, a functional activation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, images):
        return torch.nn.functional.gelu(self.norm(self.conv((images - 0.45) / 0.25))).mean((2, 3))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_centres_have_the_posterior_of_round_gaussians(rows, metric):
    unit = torch.nn.functional.normalize(rows) if metric == "cosine" else rows
    fitted = KMeans(5, n_init=3, random_state=0).fit(unit.numpy())
    centers = torch.from_numpy(fitted.cluster_centers_)
    centers = torch.nn.functional.normalize(centers) if metric == "cosine" else centers
    sigma2 = fitted.inertia_ / (200 * 4)
    judge = GaussianMixture(5, covariance_type="spherical")
    judge.weights_, judge.means_ = np.full(5, 0.2), centers.numpy()
    judge.precisions_cholesky_ = np.full(5, sigma2**-0.5)
    found = CentersPosterior(centers, metric, sigma2)(rows * 3 if metric == "cosine" else rows)
    np.testing.assert_allclose(found, judge.predict_proba(unit.numpy()), atol=1e-5)
    assert torch.equal(CentersPosterior(centers, metric, 0.0)(unit).argmax(1), torch.cdist(unit, centers).argmin(1))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_gaussians_are_scikit_learns(rows, kind):
    fitted = GaussianMixture(4, covariance_type=kind, random_state=0).fit(rows.numpy())
    parts = (torch.from_numpy(each).double() for each in (fitted.weights_, fitted.means_, fitted.covariances_))
    found = Responsibilities(Mixture(*parts, kind), torch.zeros(12).double(), "euclidean")(rows)
    np.testing.assert_allclose(found, fitted.predict_proba(rows.numpy()), atol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_votes_are_those_of_the_nearest(rows, metric):
    labels = torch.arange(150) % 3
    found = Votes(rows[:150], labels, 4, metric)(rows[150:])
    far, near = NearestNeighbors(n_neighbors=10, metric=metric).fit(rows[:150].double()).kneighbors(rows[150:].double())
    weights = 1 / (far + far.mean(1, keepdims=True))
    expected = np.stack([(weights * (labels.numpy()[near] == k)).sum(1) for k in range(4)], 1)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-4)


def head():
    draw, sizes = torch.Generator().manual_seed(1), {"d": 12, "hidden": 512, "bottleneck": 256, "k": 4}
    tensors = {
        name: torch.randn([sizes[each] for each in shape], generator=draw) for name, shape in HEAD_SHAPES.items()
    }
    return {name: each / len(each) ** 0.5 for name, each in tensors.items()}


def test_the_head_is_its_formula(rows):
    tensors = head()
    mean, first, first_bias, second, second_bias, last = (each.double().numpy() for each in tensors.values())
    hidden = torch.nn.GELU()(torch.from_numpy((rows.double().numpy() - mean) @ first + first_bias)).numpy()
    inside = hidden @ second + second_bias
    logits = inside / np.linalg.norm(inside, axis=1, keepdims=True) @ last / 0.1
    expected = np.exp(logits - logits.max(1, keepdims=True))
    found = Head("euclidean", **tensors)(rows)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-4)


def saved(kind, rows):
    """A clusterer, as it is read from a file."""
    header = {"format": 1, "estimator": kind.split()[0], "metric": "cosine", "n_features": 12, "variance": 0.1}
    header |= {"n_clusters": 4, "n_components": 4, "layer": 4, "covariance_type": "diag"}
    layers = torch.stack([torch.arange(200) // 20 % 5 - 1, torch.arange(200) % 2])  # a fifth belongs nowhere
    tensors = {
        "KMeans": {"cluster_centers_": rows[:4]},
        "GaussianMixture": {
            "weights_": torch.ones(4).double() / 4,
            "means_": rows[:4].double(),
            "covariances_": torch.ones(4, 12).double(),
        },
        "UMAPKMeans": {"rows_": rows, "row_labels_": torch.arange(200) % 4},
        "UMAPHDBSCAN": {"rows_": rows, "cores_": torch.full((200,), 0.5), "layers_": layers},
        "TEMI": {"mean": rows[0], "weight": rows[:4], "bias": rows[4, :4]},
        "TEMI of an earlier version": head(),
    }[kind]
    return clusterer_from(header, tensors)


@pytest.fixture(scope="module")
def photos():
    pytest.importorskip("onnxruntime")
    if PHOTOS.exists():
        files = [next(folder.iterdir()) for folder in sorted(PHOTOS.iterdir()) if folder.is_dir()]
        arrays = [np.array(Image.open(file).convert("RGB")) for file in files]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return torch.randint(256, (10, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


OTHERS = ("GaussianMixture", "UMAPKMeans", "UMAPHDBSCAN", "TEMI")
KINDS = [*(each + kind for kind in OTHERS for each in ("", "calibrated ")), "TEMI of an earlier version"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["calibrated KMeans", "KMeans", *KINDS])
def test_the_network_says_what_pytorch_says_whatever_the_batch(rows, photos, tmp_path, kind):
    import onnxruntime

    clusterer, path = saved(kind.removeprefix("calibrated "), rows), tmp_path / "net.onnx"
    if kind.startswith("calibrated"):
        clusterer = Calibrated(clusterer, Calibration(0.3, (-1.0, 0.5, 3.0), (-0.8, 0.1, 1.5)))
    clustering = clusterer.as_module()
    net = Net().eval()
    about = {"resize": "short side to 64, bicubic", "crop": "centre"}
    numbers = torch.tensor([0, 1, 3, 7])
    deviation = export_onnx(net, clustering, [photos], path, preparation=[about], numbers=numbers, names={1: "cats"})
    assert deviation.features < 1e-5
    assert deviation.probabilities < 1e-4
    assert deviation.n_images == 10
    session = onnxruntime.InferenceSession(path)
    for some in (photos[:1], photos[:7]):
        images = some.float() / 255
        cluster, confidence, probabilities, features = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(features, net(images), atol=1e-5)
            np.testing.assert_allclose(probabilities, clustering(net(images)), atol=1e-4)
        assert cluster.dtype == np.int64
        somewhere = probabilities.max(1) > 0
        np.testing.assert_array_equal(cluster, np.where(somewhere, numbers[probabilities.argmax(1)], -1))
        assert somewhere.all() or kind.endswith("UMAPHDBSCAN")
        np.testing.assert_array_equal(confidence, probabilities.max(1))
    known = session.get_modelmeta().custom_metadata_map
    assert known["shoal.size"] == "64 x 64"
    assert known["shoal.resize"] == "short side to 64, bicubic"
    assert json.loads(known["shoal.clusters"]) == {"1": "cats"}
    assert json.loads(known["shoal.numbers"]) == [0, 1, 3, 7]


@pytest.mark.slow
def test_a_network_that_says_something_else_is_not_written(rows, photos, tmp_path, monkeypatch):
    clustering, graph = saved("KMeans", rows).as_module(), None

    def one(classifier, images):
        nonlocal graph
        graph = graph or real(classifier, images)
        return graph

    real = onnx_module._graph
    monkeypatch.setattr(onnx_module, "_graph", one)
    net = Net().eval()
    about = {"interpolation": "bilinear", "crop_pct": "0.9", "crop_mode": "center"}
    numbers = torch.arange(4)
    export_onnx(net, clustering, [photos], tmp_path / "photos.onnx", preparation=[about], numbers=numbers, names={})
    the_example_of_the_page_runs(photos, tmp_path)
    net.conv.bias.data += 0.1
    with pytest.raises(UserError, match=r"differs from PyTorch by 0\.\d+ in features and .*, so it was not written"):
        export_onnx(net, clustering, [photos], tmp_path / "other.onnx", preparation=[{}], numbers=numbers, names={})
    assert {path.name for path in tmp_path.iterdir()} == {"photos.onnx", "photo.jpg"}


def the_example_of_the_page_runs(photos, folder):
    text = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()
    (example,) = re.findall(r"^```python\n(import json\n.*?)^```", text, re.M | re.S)
    Image.fromarray(photos[0].permute(1, 2, 0).numpy()).resize((90, 70)).save(folder / "photo.jpg")
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        exec(example, {})
    assert re.fullmatch(r"\d+ (0\.\d+|1\.0)\n", said.getvalue())


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"onnx is not installed: pip install 'shoal\[onnx\]'"):
        onnx_module.check_installed()

"""One peer on one set of images, in a process of its own: what ``peers.py`` starts.

    python benchmarks/peers_run.py DEC digits --seed 0 --budget 100 --out row.json

Every peer has the settings that its authors give it. Where its epochs would take longer than the budget, all stages of
its training are shortened by the same factor: an epoch's CPU time is measured beforehand on a part of the images, at a
cost that is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn

from shoal.data import to_images
from shoal.evaluation import clustering_scores

Labels = NDArray[np.int64]
Epochs = tuple[int, int]
"""Of pretraining, and of training on clusters."""

STEP = 0.02
"""Share of the epochs after which their time is measured first, but at least one; then after three times as many."""
MEMORY = 10 * 2**30
"""Bytes that a peer may allocate."""


@dataclass(frozen=True)
class Peer:
    """A way to cluster images, and the epochs of its own choice."""

    fit: Callable[[NDArray[np.uint8], int, int, Epochs], Labels]
    """Images (n, 3, h, w), k, seed and epochs in, labels out; −1 for noise."""
    epochs: Epochs = (0, 0)
    part: int = 2_000
    """Images on which an epoch's time is measured."""

    def shortened(self, share: float) -> Epochs:
        """This share of the epochs, in both stages, but at least one of each that it has."""
        pre, clusters = (math.ceil(each * share - 1e-9) for each in self.epochs)
        return pre, clusters


def grey(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of pixels in [0, 1], a channel where all three are the same."""
    same = bool((images[:, :1] == images).all())
    rows: NDArray[np.float32] = (images[:, :1] if same else images).reshape(len(images), -1).astype(np.float32)
    rows /= 255
    return rows


def kmeans(rows: NDArray[np.float32], k: int, seed: int) -> Labels:
    """scikit-learn's, ten restarts."""
    found: Labels = KMeans(k, n_init=10, random_state=seed).fit_predict(rows).astype(np.int64)
    return found


def clustpy(name: str) -> Peer:
    """A deep clustering of ClustPy with its defaults: a feed-forward autoencoder on pixels, Adam."""
    import clustpy.deep  # type: ignore[import-not-found,unused-ignore]

    kind = getattr(clustpy.deep, name)
    settings = inspect.signature(kind).parameters

    def fit(images: NDArray[np.uint8], k: int, seed: int, epochs: Epochs) -> Labels:
        chosen = {"n_clusters": k, "pretrain_epochs": epochs[0], "clustering_epochs": epochs[1], "random_state": seed}
        model = kind(**{key: value for key, value in chosen.items() if key in settings})
        model.fit(grey(images))
        labels = np.asarray(model.labels_, dtype=np.int64)
        if hasattr(model, "flat_clustering") and len(np.unique(labels)) > k:  # a tree, cut where it has k leaves
            labels = np.asarray(model.flat_clustering(k), dtype=np.int64)
        return labels

    pre, clusters = (
        settings[key].default if key in settings else 0 for key in ("pretrain_epochs", "clustering_epochs")
    )
    return Peer(fit, (pre, clusters))


def umap_rows(images: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    """As UMAP's documentation embeds MNIST "for clustering": 30 neighbours, no least distance, two dimensions."""
    import umap

    rows: NDArray[np.float32] = umap.UMAP(n_neighbors=30, min_dist=0.0, random_state=seed).fit_transform(grey(images))
    return rows


def umap_hdbscan(images: NDArray[np.uint8], _k: int, seed: int, _epochs: Epochs) -> Labels:
    """As that documentation goes on: 10 samples, clusters of 500 of 70 000 at least, or of as large a share."""
    least = max(5, round(len(images) / 140))
    found: Labels = HDBSCAN(min_samples=10, min_cluster_size=least, copy=False).fit_predict(umap_rows(images, seed))
    return found.astype(np.int64)


def umap_kmeans(images: NDArray[np.uint8], k: int, seed: int, _epochs: Epochs) -> Labels:
    """The same embedding, clustered by one who knows k."""
    return kmeans(umap_rows(images, seed), k, seed)


def lightly_byol(images: NDArray[np.uint8], k: int, seed: int, epochs: Epochs) -> Labels:
    """The BYOL example of lightly for 32 px (ResNet-18, batch 256, SGD 0.06), then k-means of its features."""
    from lightly.loss import NegativeCosineSimilarity  # type: ignore[import-not-found,unused-ignore]
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead  # type: ignore[import-not-found,unused-ignore]
    from lightly.models.utils import update_momentum  # type: ignore[import-not-found,unused-ignore]
    from lightly.utils.scheduler import cosine_schedule  # type: ignore[import-not-found,unused-ignore]
    from torchvision.models import resnet18  # type: ignore[import-untyped,unused-ignore]

    torch.manual_seed(seed)
    backbone = nn.Sequential(*list(resnet18().children())[:-1], nn.Flatten())
    online = nn.Sequential(backbone, BYOLProjectionHead(512, 1024, 256))
    target = copy.deepcopy(online).requires_grad_(False)
    predictor = BYOLPredictionHead(256, 1024, 256)
    optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.06)
    criterion = NegativeCosineSimilarity()
    batches = _views(images)
    for epoch in range(epochs[0]):
        momentum = cosine_schedule(epoch, epochs[0], 0.996, 1)
        for x0, x1 in batches:
            update_momentum(online, target, m=momentum)
            p0, p1 = predictor(online(x0)), predictor(online(x1))
            loss = (criterion(p0, target(x1)) + criterion(p1, target(x0))) / 2
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    backbone.eval()
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(images), 256)
        features = torch.cat([backbone(_at_32(part).float() / 255) for part in parts])
    return kmeans(features.numpy(), k, seed)


def _at_32(part: Tensor) -> Tensor:
    """Images of another size as the example's transform would bring them to 32 px."""
    return part if part.shape[-1] == 32 else nn.functional.interpolate(part, (32, 32), mode="bilinear")


def _views(images: NDArray[np.uint8]) -> Any:
    """Batches of the example's two views."""
    from lightly.transforms.byol_transform import (  # type: ignore[import-not-found,unused-ignore]
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )
    from PIL import Image

    views = BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=32, gaussian_blur=0.0),
        view_2_transform=BYOLView2Transform(input_size=32, gaussian_blur=0.0),
    )

    class Pairs(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, row: int) -> Any:
            return tuple(views(Image.fromarray(images[row].transpose(1, 2, 0))))

    return torch.utils.data.DataLoader(Pairs(), batch_size=256, shuffle=True, drop_last=True)


DEEP = (
    "DEC",
    "IDEC",
    "DCN",
    "VaDE",
    "DeepECT",
    "ACeDeC",
    "DKM",
    "DipEncoder",
    "DDC",
    "N2D",
    "AEC",
    "DipDECK",
    "SHADE",
    "DEN",
)
"""ClustPy's, but for ENRC, which is for several clusterings of the same images."""
OTHERS: Mapping[str, Peer] = {
    "UMAP + HDBSCAN": Peer(umap_hdbscan),
    "UMAP + k-means": Peer(umap_kmeans),
    "lightly BYOL + k-means": Peer(lightly_byol, (10, 0), part=512),
    "k-means": Peer(lambda images, k, seed, _epochs: kmeans(grey(images), k, seed)),
}
PEERS = (*DEEP, *OTHERS)


def images_of(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (n, 3, h, w) and classes, of scikit-learn's digits or of what ``shoal train --data.path`` reads."""
    if path == "digits":
        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None].repeat(3, 1)
        return pixels, digits.target.astype(np.int64)
    images = to_images(path)
    return images.pixels.numpy(), images.targets.numpy()


def epochs_within(peer: Peer, images: NDArray[np.uint8], k: int, budget: float) -> Epochs:
    """The peer's own epochs, or as many as take ``budget`` seconds of CPU time, imports included."""
    part = images[np.random.default_rng(0).permutation(len(images))[: peer.part]]
    step = max(STEP, 1 / max(peer.epochs))

    def seconds(share: float) -> float:
        start = time.process_time()
        peer.fit(part, k, 0, peer.shortened(share))
        return time.process_time() - start

    started = time.process_time()
    seconds(0)  # what is imported and compiled
    started = time.process_time() - started
    short, longer = seconds(step), seconds(3 * step)
    a_step = (sum(peer.shortened(3 * step)) - sum(peer.shortened(step))) / sum(peer.epochs)
    per_share = max((longer - short) / a_step, 1e-9)
    times = len(images) / len(part)
    without = max(short - per_share * sum(peer.shortened(step)) / sum(peer.epochs), 0.0)
    share = (budget - started - times * without) / (times * per_share)
    return peer.shortened(min(1.0, max(share, 1e-6)))


def measure(name: str, path: str, seed: int, budget: float) -> dict[str, Any]:
    """Scores of one run, its epochs, and the CPU seconds of measuring that are not the peer's."""
    images, targets = images_of(path)
    k = len(np.unique(targets))
    peer = clustpy(name) if name in DEEP else OTHERS[name]
    before = time.process_time()
    epochs = epochs_within(peer, images, k, budget - before) if sum(peer.epochs) else (0, 0)
    uncounted = time.process_time() - before
    found = peer.fit(images, k, seed, epochs)
    noise = float((found < 0).mean())
    # Noise is a cluster of its own: at most one class's images are right in it.
    scores = clustering_scores(targets, np.unique(found, return_inverse=True)[1])
    return {
        "seed": seed,
        **{key: float(scores[key]) for key in ("acc", "nmi", "ari")},
        "clusters": len(np.unique(found[found >= 0])),
        "noise": noise,
        "epochs": epochs,
        "own_epochs": peer.epochs,
        "uncounted": uncounted,
    }


def main() -> None:
    """Measure, and write the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    most = math.ceil(4 * args.budget + 120)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 10))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with contextlib.redirect_stdout(sys.stderr):
        row = measure(args.peer, args.path, args.seed, args.budget)
    args.out.write_text(json.dumps(row))


if __name__ == "__main__":
    main()

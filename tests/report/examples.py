"""Small runs to report on."""

from __future__ import annotations

import torch

from shoal.report import ReportData
from shoal.types import Clustering, Images

ROWS = (
    {
        "epoch": 0,
        "steps": 4,
        "loss": 3.0,
        "psa": 2.0,
        "psl": 1.0,
        "lr": 0.1,
        "seconds": 1.0,
        "acc": 0.5,
        "nmi": 0.4,
    },
    {"epoch": 1, "steps": 8, "loss": 2.0, "psa": 1.5, "psl": 0.5, "lr": 0.05, "seconds": 1.0},
    {"epoch": 2, "steps": 8, "acc": 0.875, "nmi": 0.75, "ari": 0.625, "silhouette": 0.25, "changed": None},
)


def example(n=60, k=3, *, size=8, labelled=True, clusters=None, pixels=None, ids=None, classes=None, **other):
    """A clustering of noise: the distance of an image rises with its place, the confidence falls."""
    generator = torch.Generator().manual_seed(0)
    if pixels is None:
        pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    clusters = torch.arange(n) % k if clusters is None else clusters
    labels = clusters.clamp(min=0) if labelled else torch.full((n,), -1)
    centers = torch.randn(k, 16, generator=generator)
    features = centers[clusters] + 0.3 * torch.randn(n, 16, generator=generator)
    data = {
        "title": "a run",
        "command": "shoal train propos-digits --seed 3",
        "config_yaml": "seed: 3\n",
        "metrics": ROWS,
        "images": Images(
            pixels=pixels,
            targets=labels,
            clustered=clusters >= 0,
            classes=classes or tuple(f"class-{i}" for i in range(k)),
            ids=ids or [f"image-{i}" for i in range(n)],
        ),
        "features": features,
        "clustering": Clustering(clusters, centers, torch.arange(n) / n),
        "confidences": 1 - torch.arange(n) / n,
        "positions": torch.randn(n, 2, generator=generator),
        "map_method": "UMAP",
        "seed": 3,
        "sizes": torch.bincount(clusters[clusters >= 0], minlength=k),
        "n_images": n,
    }
    return ReportData(**(data | other))

"""E-steps that average features with those of neighbours before k-means."""

from __future__ import annotations

import torch
from tests.runs import new_run, tiny_config

from shoal.clustering.kmeans import assign
from shoal.progress import Progress
from shoal.training.loop import fit


def test_clusters_are_the_nearest_centers_and_others_than_without(tmp_path):
    runs = [new_run(tmp_path / str(smooth), tiny_config(smooth_features=smooth)) for smooth in (False, True)]
    for run in runs:
        fit(run, Progress())
    (plain,), (smooth,) = (run.clusterings for run in runs)
    assert not torch.allclose(plain.centers, smooth.centers)
    assert torch.equal(assign(runs[1].features, smooth.centers, "cosine")[0], smooth.labels)

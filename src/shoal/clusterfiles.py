"""From a file of features to a folder of clusters.

FOLDER/
  assignments.csv       row, cluster, distance and margin of each row
  centers.npy           float32 (k, d), in the order of the clusters
  suggestion.json       how good each k is, if k was to be chosen
  suggestion.html       the same to look at
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shoal.assignments import write_row_assignments
from shoal.clustering import assign, kmeans, suggest_k
from shoal.clustering.rows import Metric
from shoal.clustering.suggest import Suggestion
from shoal.data import to_images
from shoal.data.features import read_features
from shoal.errors import UserError
from shoal.files import atomic_write, check_free_folder
from shoal.report import write_suggestion
from shoal.training.trained import Assignment

FORMAT = 1
"""Version of suggestion.json."""

PIXELS = "digits"
"""The data set whose pixels are taken for features: it is built in, and its images are small."""


class ClusterFolder:
    """Paths of what is written, and how."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.assignments = path / "assignments.csv"
        self.centers = path / "centers.npy"
        self.suggestion = path / "suggestion.json"
        self.page = path / "suggestion.html"

    def check_free(self) -> None:
        """Raise a UserError when the folder holds something already."""
        check_free_folder(self.path)

    def write_suggestion(self, suggestion: Suggestion, title: str) -> None:
        """Write the suggestion as JSON and as a page."""
        text = json.dumps({"format": FORMAT, "k": suggestion.k, **asdict(suggestion)}, indent=2, allow_nan=False)
        atomic_write(self.suggestion, f"{text}\n".encode())
        write_suggestion(suggestion, title, self.page)

    def write_clusters(self, assignment: Assignment, centers: Float[Tensor, "k d"]) -> None:
        """Write who is in which cluster, and the centres."""
        file = io.BytesIO()
        np.save(file, centers.cpu().numpy())
        atomic_write(self.centers, file.getvalue())
        write_row_assignments(assignment, self.assignments)


def read_rows(name: str, metric: Metric) -> Float[Tensor, "n d"]:
    """The features in a ``.npy`` file, or the pixels of the digits.

    Raises:
        UserError: it is neither, or cannot be clustered.
    """
    if name == PIXELS and not Path(name).exists():
        return to_images(name).pixels[:, 0].flatten(1).float() / 255
    if Path(name).suffix.lower() != ".npy" or Path(name).is_dir():
        raise UserError(
            f"{name} is no .npy file: save features with numpy.save; to cluster a folder of images, learn features and "
            "clusters together with 'shoal train propos-folder --data.path FOLDER'."
        )
    return read_features(Path(name), cosine=metric == "cosine")


def suggest(
    rows: Float[Tensor, "n d"], k_range: tuple[int, int] | None, metric: Metric, seed: int, folder: ClusterFolder
) -> Suggestion:
    """Rank numbers of clusters and write what speaks for each."""
    suggestion = suggest_k(rows, k_range, metric=metric, seed=seed)
    folder.write_suggestion(suggestion, folder.path.resolve().name)
    return suggestion


def cluster(rows: Float[Tensor, "n d"], n_clusters: int, metric: Metric, seed: int, folder: ClusterFolder) -> None:
    """Put rows into clusters by k-means and write these.

    Raises:
        UserError: there are fewer rows than clusters, or the folder cannot be written.
    """
    found = kmeans(rows, n_clusters, generator=torch.Generator().manual_seed(seed), metric=metric)
    folder.write_clusters(Assignment(*assign(rows, found.centers, metric), rows), found.centers)

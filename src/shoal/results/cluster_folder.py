"""The folder of clusters.

FOLDER/
  report.html            the clusters to look at, to rename and to merge
  assignments.parquet    id, cluster, confidence, distance, margin, place on the map (and label) of each image
  assignments.csv        the same
  representatives.csv    the most central and the most doubtful images of each cluster
  duplicates.csv         groups of equal and of nearly equal images
  outliers.csv           images that look like no other
  skipped.csv            files that could not be read, if any
  atlas.parquet          the same points with pictures, for embedding-atlas
  centers.npy            float32 (k, d), in the order of the clusters
  clustering.safetensors what ``shoal predict`` needs
  suggestion.json, .html how good each k is, if k was to be chosen
  features/              the features, and how far embedding has come
"""

from __future__ import annotations

from pathlib import Path

from shoal.errors import UserError
from shoal.files import check_free_folder


class ClusterFolder:
    """Paths of what is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report = path / "report.html"
        self.table = path / "assignments.parquet"
        self.assignments = path / "assignments.csv"
        self.representatives = path / "representatives.csv"
        self.duplicates = path / "duplicates.csv"
        self.outliers = path / "outliers.csv"
        self.skipped = path / "skipped.csv"
        self.atlas = path / "atlas.parquet"
        self.centers = path / "centers.npy"
        self.clustering = path / "clustering.safetensors"
        self.suggestion = path / "suggestion.json"
        self.page = path / "suggestion.html"
        self.features = path / "features"

    @property
    def is_clustered(self) -> bool:
        """Whether there is a finished clustering."""
        return self.clustering.is_file()

    def check_free(self) -> None:
        """Raise a UserError when the folder holds something already, other than what a stopped clustering has left."""
        path = self.path
        if self.is_clustered:
            again = f"'shoal cluster {path} -k K --out OTHER' clusters its features once more"
            raise UserError(f"{path} already holds clusters: give another --out; {again}.")
        ours = {value.name for name, value in vars(self).items() if name != "path"}
        found = {entry.name for entry in path.iterdir() if not _unfinished(entry.name)} if path.is_dir() else set()
        if not found <= ours:
            check_free_folder(path)


def _unfinished(name: str) -> bool:
    """Whether a file is one that a kill in the middle of a write has left."""
    return name.startswith(".") and name.endswith(".tmp")

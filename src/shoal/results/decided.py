"""A clustering as a person's decisions have left it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from shoal.clustering import Clusterer, clusterer_from, state_of
from shoal.clustering.calibration import Posterior
from shoal.clustering.rows import Metric
from shoal.decisions.log import Decision, DecisionLog, effective
from shoal.decisions.replay import Labels, Replayed, replay
from shoal.folder import ResultFolder
from shoal.results.model import Model, decided_model
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import read_assignments, same_ids, write_assignments
from shoal.tensors import damaged, read_tensors, write_tensors

SAME = 0.99
"""Share of the images that must be in the same clusters for decisions to stand."""

LEARNED = re.compile(r"learned-\d+\.safetensors")


@dataclass(frozen=True, eq=False)
class Learned:
    """A clustering learned from a person's answers."""

    labels: Int64[Tensor, "n"]
    """Cluster of each image, by its number."""
    confidence: Float32[Tensor, "n"]
    clusterer: Clusterer
    """Predicts for other images."""
    known: Sequence[int]
    """The clusters that it knows, in the order of its probabilities."""

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            UserError: the folder cannot be written.
        """
        header, tensors = state_of(self.clusterer)
        named = {f"clusterer.{name}": value for name, value in tensors.items()}
        ours: dict[str, Any] = {"clusterer": header, "known": [*self.known]}
        write_tensors(path, ours, {**named, "labels": self.labels, "confidence": self.confidence})

    @classmethod
    def load(cls, path: Path, n: int) -> Learned:
        """Read what was learned of n images.

        Raises:
            UserError: it is gone or damaged.
        """
        header, tensors = read_tensors(path)
        try:
            labels, confidence = tensors.pop("labels"), tensors.pop("confidence")
            if labels.shape != (n,) or confidence.shape != (n,):
                raise ValueError("it is about other images")
            named = {name.removeprefix("clusterer."): value for name, value in tensors.items()}
            known = [int(number) for number in header["known"]]
            return cls(labels, confidence, clusterer_from(header["clusterer"], named), known)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, error) from error


def keep_decisions(folder: ResultFolder, ids: Sequence[str], found: Assignments) -> bool:
    """Let decisions stand where the same images have come into the same clusters again; else set them aside.

    A resumed run may differ in the last bit, so a hundredth of the images may be in other clusters.

    Raises:
        UserError: the folder cannot be written.
    """
    known, before, names = read_assignments(folder.clustered)
    if same_ids(known, ids) and float((before.labels == found.labels).double().mean()) >= SAME:
        write_assignments(found, ids, folder.clustered, names=names)
        return True
    with folder.earlier.open("ab") as file:
        file.write(DecisionLog(folder.decisions).content())
    for path in (folder.decisions, folder.clustered, folder.graph, *folder.path.glob("learned-*.safetensors")):
        path.unlink(missing_ok=True)
    return False


def next_learned(folder: ResultFolder) -> Path:
    """The file for what is learned next."""
    numbers = [int(path.stem.partition("-")[2]) for path in folder.path.iterdir() if LEARNED.fullmatch(path.name)]
    return folder.path / f"learned-{1 + max(numbers, default=0)}.safetensors"


@dataclass(frozen=True, eq=False)
class Decided:
    """What decisions have made of a clustering."""

    replayed: Replayed
    learned: Learned | None
    """The part of what was learned that counts."""
    size: int
    """Bytes of the decisions."""

    def model(self, clusterer: Posterior, centers: Float[Tensor, "k d"], features: Tensor, metric: Metric) -> Model:
        """What puts other images into the clusters; the arguments are those of the clustering without decisions."""
        own = dict(enumerate(centers))
        if self.learned is not None:
            return decided_model(self.replayed, self.learned.clusterer, self.learned.known, own, features, metric)
        return decided_model(self.replayed, clusterer, [*own], own, features, metric)

    def assignments(
        self, model: Model, features: Tensor, metric: Metric, positions: Float32[Tensor, "n 2"] | None
    ) -> Assignments:
        """A row per image.

        Where a person has said the cluster the confidence is 1; in no cluster it is 0, and there are no distances.
        """
        labels = torch.from_numpy(self.replayed.labels)
        slots = model.slots_of(labels)
        found = assign_rows(features, model, model.centers, metric, labels=slots, positions=positions)
        confidence = found.confidence
        if self.learned is not None:
            # A learned cluster may have been merged since; and the head alone may contradict what was learned.
            stays = self._present(self.learned.labels) == labels
            known = torch.where(labels == self.learned.labels, torch.zeros_like(confidence), confidence)
            confidence = torch.where(stays, torch.maximum(self.learned.confidence, known), confidence)
        confidence[torch.from_numpy(self.replayed.fixed) & (labels >= 0)] = 1
        return replace(found, labels=labels, confidence=confidence)

    def _present(self, clusters: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """The clusters that these are in now; −1 stays."""
        into = torch.full((2 + max(self.replayed.into, default=-1),), -1)
        for number, now in self.replayed.into.items():
            into[number] = now
        return into[clusters]  # −1 is the last


class Reader:
    """What ``replay`` reads learned clusterings of n images with; ``loaded`` are those that it has read."""

    def __init__(self, folder: ResultFolder, n: int) -> None:
        self.folder = folder
        self.n = n
        self.loaded: dict[str, Learned] = {}

    def __call__(self, name: str) -> tuple[Labels, Sequence[int]]:
        """The cluster of each image, and the clusters that are known.

        Raises:
            UserError: the file is gone or damaged.
        """
        self.loaded[name] = learned = Learned.load(self.folder.path / name, self.n)
        return learned.labels.numpy(), learned.known


def decided(
    folder: ResultFolder,
    base: Assignments,
    n_clusters: int,
    names: Mapping[int, str],
    ids: Sequence[str],
    more: Sequence[Decision] = (),
) -> Decided:
    """Replay the decisions that are in a folder.

    Args:
        folder: of the result.
        base: the clustering without decisions.
        n_clusters: that it has.
        names: of its clusters.
        ids: of the images, as tables hold them.
        more: decisions that come after those of the folder.

    Raises:
        UserError: a decision cannot be read or followed.
    """
    steps, size = DecisionLog(folder.decisions).read()
    read = Reader(folder, len(ids))
    replayed = replay(base.labels.numpy(), n_clusters, names, ids, effective([*steps, *more]), read)
    return Decided(replayed, read.loaded.get(replayed.learned), size)

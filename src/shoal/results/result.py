"""A finished result as every command reads it, whether 'shoal train' or 'shoal cluster' wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from shoal.clustering import UMAPHDBSCAN, Clusterer, clusterer_from, state_of
from shoal.clustering.calibration import Calibrated, Calibration, Posterior
from shoal.clustering.rows import Metric
from shoal.data import Listing, Source, find_source, to_images
from shoal.data.features import read_features
from shoal.data.greys import Scale
from shoal.data.sources.joined import files_source, joined_source
from shoal.decisions.log import DecisionLog
from shoal.errors import UserError
from shoal.features import Embedded, Encoder, EncoderSpec, load_encoder, open_embedded
from shoal.features.inference import SquarePreparing
from shoal.features.matching import Matched, Prepare, match
from shoal.folder import ResultFolder
from shoal.results.decided import Decided, decided
from shoal.results.far import Reference
from shoal.results.model import Model
from shoal.results.rows import Assignments
from shoal.results.tables import read_assignments, same_ids, stamp_of
from shoal.tensors import damaged, read_tensors, write_tensors

FLAGS = ("held_out", "clustered")

PIXELS = "digits"
"""The data set whose pixels are taken for features: it is built in, and its images are small."""


@dataclass(frozen=True, eq=False)
class Result:
    """A fitted clusterer, the centres of its clusters, and where to find features and images."""

    folder: ResultFolder
    method: str
    """Of clustering, such as "kmeans", or of training, such as "propos"."""
    clusterer: Clusterer
    centers: Float[Tensor, "k d"]
    """Of the clusters, in the space of the features; k is the number of clusters that have images."""
    metric: Metric
    seed: int
    source: str | list[str]
    """Path of the images or the features: what ``find_source`` takes."""
    root: str
    """Folder with the files of a named data set, if it is not among the downloads."""
    features_at: Path
    """The folder with the features of images."""
    encoder: EncoderSpec | None
    """What made the features; None where they were given."""
    asked: int
    """Number of clusters asked for; there are fewer where some would have been empty."""
    by_head: bool = False
    """Whether a training method's own head has put the images into clusters."""
    joined: tuple[tuple[str, str], ...] = ()
    """Sources that have joined since, and the folder under which their images are named."""
    every: str = ""
    """How often a frame of a video was taken; "": videos were not read."""
    reference: Reference | None = None
    """What was far from its centre when the images were clustered; None until an update asks for it."""
    calibration: Calibration | None = None
    """What makes the clusterer's probabilities say how often it is right; None where there were too few rows to find
    out, and in results of version 0.1."""
    flags: Mapping[str, Bool[Tensor, "n"]] | None = None
    """``held_out`` and ``clustered`` of each image, where a data set says so."""

    def save(self) -> None:
        """Write ``clustering.safetensors``; with it the folder is finished."""
        header, tensors = state_of(self.clusterer)
        own_features = self.features_at.resolve() == self.folder.features.resolve()
        ours: dict[str, Any] = {
            "method": self.method,
            "clusterer": header,
            "metric": self.metric,
            "seed": self.seed,
            "source": self.source,
            "root": self.root,
            "joined": self.joined,
            "every": self.every,
            "features": "features" if own_features else str(self.features_at),  # the folder may be moved
            "encoder": None if self.encoder is None else _movable(self.encoder, self.folder).as_values(),
            "by_head": self.by_head,
            "asked": self.asked,
            "reference": None if self.reference is None else asdict(self.reference),
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }
        named = {f"clusterer.{name}": value for name, value in tensors.items()}
        flags = {name: value.to(torch.uint8) for name, value in (self.flags or {}).items()}
        write_tensors(self.folder.clustering, ours, {**named, **flags, "centers": self.centers})

    @classmethod
    def load(cls, path: Path) -> Result:
        """The finished clusters in a folder that ``shoal train`` or ``shoal cluster`` wrote.

        Raises:
            UserError: there are none, they are damaged, or a newer version wrote them.
        """
        folder = ResultFolder(path)
        folder.complete_update()
        folder.check_finished()
        header, tensors = read_tensors(folder.clustering)
        try:
            centers = tensors.pop("centers")
            flags = {name: tensors.pop(name).bool() for name in FLAGS if name in tensors}
            named = {name.removeprefix("clusterer."): value for name, value in tensors.items()}
            encoder = None if header["encoder"] is None else EncoderSpec.from_values(header["encoder"])
            if encoder is not None and encoder.kind == "run" and not encoder.name:
                encoder = replace(encoder, name=str(path.resolve()))
            return cls(
                folder=folder,
                method=header["method"],
                clusterer=clusterer_from(header["clusterer"], named),
                centers=centers,
                metric=header["metric"],
                seed=int(header["seed"]),
                source=header["source"],
                root=header.get("root", ""),
                features_at=path.resolve() / header["features"],
                encoder=encoder,
                by_head=header.get("by_head", False),
                asked=int(header.get("asked", len(centers))),
                reference=Reference(**header["reference"]) if header.get("reference") else None,
                joined=tuple((str(name), str(spec)) for name, spec in header.get("joined", ())),
                every=str(header.get("every", "")),
                calibration=Calibration(**header["calibration"]) if header.get("calibration") else None,
                flags=flags,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder.clustering, error) from error

    @cached_property
    def embedded(self) -> Embedded | None:
        """What was kept of the images; None where features were given.

        Raises:
            UserError: the features are gone or damaged.
        """
        if self.encoder is None:
            return None
        try:
            found = open_embedded(self.features_at)
            if found.spec.digest != self.encoder.digest:
                raise UserError(f"{self.features_at} holds features of another network than those that were clustered.")
        except UserError as error:
            own = self.folder.is_run and self.folder.state.exists()
            redo = f"'shoal train --resume {self.folder.path}' writes them again" if own else "cluster the images again"
            raise UserError(f"the features of {self.folder.path} cannot be used: {redo}. {error}") from error
        return found

    @cached_property
    def features(self) -> Float[Tensor, "n d"]:
        """The features that were clustered.

        Raises:
            UserError: they are gone, damaged, or others than were clustered.
        """
        if self.embedded is not None:
            return self.embedded.features
        found = given_features(str(self.source))
        if len(found) != len(self.table_ids):
            raise UserError(f"{self.source} does not have the rows that were clustered: cluster again.")
        return found

    @cached_property
    def clustered(self) -> tuple[Sequence[str], Assignments, dict[int, str]]:
        """Ids as tables hold them, the assignments before any decision, and the names that clusters had then.

        Raises:
            UserError: the table is damaged, or does not have the rows that were clustered.
        """
        path = self.folder.clustered if self.folder.clustered.exists() else self.folder.assignments
        ids, found, names = read_assignments(path)
        if len(found.labels) and not -1 <= int(found.labels.min()) <= int(found.labels.max()) < len(self.centers):
            raise UserError(f"{path} names clusters that do not exist: cluster again.")
        self._check_rows(path, ids)
        return ids, found, names

    def _check_rows(self, path: Path, ids: Sequence[str]) -> None:
        """See that a table has the rows that were clustered, in their order, by which rows are known elsewhere.

        Raises:
            UserError: it has not.
        """
        try:
            known = None if self.embedded is None else self.embedded.ids
        except UserError:  # features that are gone are missed where they are needed
            return
        if not (same_ids(ids, known) if known is not None else all(map(str.__eq__, ids, map(str, count())))):
            raise UserError(
                f"{path} names other images than were clustered, or in another order: bring it back from a copy, or "
                "cluster again."
            )

    @property
    def table_ids(self) -> Sequence[str]:
        """Names of the rows as tables hold them."""
        return self.clustered[0]

    @cached_property
    def decided(self) -> Decided | None:
        """What a person's decisions have made of the clustering; None where there are none.

        Raises:
            UserError: a decision cannot be read or followed.
        """
        if not self.folder.clustered.exists():  # it is written before the first decision
            return None
        ids, found, names = self.clustered
        return decided(self.folder, found, len(self.centers), names, ids)

    @property
    def labels(self) -> Int64[Tensor, "n"]:
        """The present cluster of each image; unlike ``assignments`` it needs no features.

        Raises:
            UserError: as ``decided``.
        """
        return self.clustered[1].labels if self.decided is None else torch.from_numpy(self.decided.replayed.labels)

    @property
    def posterior(self) -> Posterior:
        """The clusterer, with calibrated probabilities where there is a calibration."""
        return self.clusterer if self.calibration is None else Calibrated(self.clusterer, self.calibration)

    @cached_property
    def model(self) -> Model:
        """What puts other images into the present clusters.

        Raises:
            UserError: as ``decided`` and, where there are decisions, as ``features``.
        """
        if self.decided is None:
            return Model(self.posterior, self.centers, torch.arange(len(self.centers)))
        return self.decided.model(self.posterior, self.centers, self.features, self.metric)

    @property
    def layers(self) -> list[int]:
        """Other numbers of clusters among which ``shoal cluster RESULT -k`` chooses without fitting anything."""
        if not isinstance(self.clusterer, UMAPHDBSCAN):
            return []
        return [k for k in self.clusterer.choices_ if k != self.clusterer.n_clusters_]

    @property
    def tables_are_behind(self) -> bool:
        """Whether tables were written before the last decision, or after others that are gone."""
        return self.decided is not None and stamp_of(self.folder.assignments) != DecisionLog(self.folder.decisions).size

    @cached_property
    def assignments(self) -> Assignments:
        """A row per image, as the decisions have it.

        Raises:
            UserError: as ``model``.
        """
        found = self.clustered[1]
        if self.decided is None:
            return found
        if not self.tables_are_behind:
            ids, now, _ = read_assignments(self.folder.assignments)
            self._check_rows(self.folder.assignments, ids)
            return now
        return self.decided.assignments(self.model, self.features, self.metric, found.positions)

    @property
    def names(self) -> Mapping[int, str]:
        """Names of the clusters that have one."""
        return self.clustered[2] if self.decided is None else self.decided.replayed.names

    @cached_property
    def ids(self) -> Sequence[str]:
        """Names of the rows.

        Raises:
            UserError: as ``clustered`` and ``embedded``.
        """
        own = self.table_ids  # which are checked
        return own if self.embedded is None else self.embedded.ids

    @cached_property
    def images(self) -> Source:
        """Where the images should be.

        Raises:
            UserError: features were clustered, or there are no images any more.
        """
        return joined_source(self.first_images, self.joined, self.every)

    @cached_property
    def first_images(self) -> Source:
        """Where those images should be that were not joined later.

        Raises:
            UserError: as ``images``.
        """
        if self.embedded is None:
            raise self._without_images()
        if isinstance(self.source, str):
            return find_source(self.source, root=self.root, every=self.every)
        return files_source(self.source, self.embedded.listed[: len(self.source)], self.every)

    @property
    def listing(self) -> Listing:
        """Where the images can be read again.

        Raises:
            UserError: as ``images``.
        """
        return self.images.listing()

    @cached_property
    def matched(self) -> Matched:
        """Which of the images are there and unchanged.

        Raises:
            UserError: as ``images``; or images of a training run, whose network is gone, would have to be compared.
        """
        images = self.images
        assert self.embedded is not None  # otherwise there are no images
        return match(self.embedded, images, self.prepare)

    @property
    def prepare(self) -> Prepare | None:
        """What makes the pixels that fingerprints are of; None where they are of files.

        Raises:
            UserError: an older version has not kept their size, and the network is gone.
        """
        embedded = self.embedded
        if embedded is None or not embedded.of_pixels:
            return None
        preparing = SquarePreparing(embedded.pixels) if embedded.pixels else self.network.preparing
        return lambda data: preparing(data, Scale(embedded.ranges))

    @property
    def is_quickly_matched(self) -> bool:
        """Whether ``matched`` mostly asks for size and times of each file, or of an archive or a table as a whole."""
        return self.embedded is not None and (self.embedded.stats is not None or not self.embedded.of_pixels)

    @cached_property
    def present(self) -> Int64[np.ndarray, "m"]:
        """Images that are there and unchanged, whatever their names are now, in the order in which they are listed."""
        there = self.matched.there
        found: Int64[np.ndarray, "m"] = there[np.argsort(self.matched.rows[there], kind="stable")]
        return found

    @cached_property
    def network(self) -> Encoder:
        """What made the features, where it is one network: ``results.networks`` knows of several.

        Raises:
            UserError: features were clustered, or the weights are gone or have changed.
        """
        if self.encoder is None:
            raise self._without_images()
        try:
            return load_encoder(self.encoder)
        except UserError as error:
            raise UserError(
                f"the network that made the features of {self.folder.path} cannot be used: {error}"
            ) from error

    def _without_images(self) -> UserError:
        return UserError(
            f"{self.folder.path} holds clusters of features, not of images: cluster the images themselves."
        )


def given_features(source: str, *, cosine: bool = False) -> Float[Tensor, "n d"]:
    """Features that were given and not made: those of a .npy file, or the pixels of the digits in [0, 1].

    Raises:
        UserError: the file cannot be read, or has rows of zeros, which have no cosine.
    """
    if source == PIXELS:
        return to_images(PIXELS).pixels[:, 0].flatten(1).float() / 255
    return read_features(Path(source), cosine=cosine)


def _movable(encoder: EncoderSpec, folder: ResultFolder) -> EncoderSpec:
    """The spec without the path of the run itself, whose folder may be moved."""
    own = encoder.kind == "run" and Path(encoder.name).resolve() == folder.place.resolve()
    return replace(encoder, name="") if own else encoder

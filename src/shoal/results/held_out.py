"""Images with labels that were held out, scored in the clusters of a result."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from shoal.data import find_source
from shoal.data.listing import Source
from shoal.data.sources.labels import classes_of
from shoal.data.unread import reading_notes
from shoal.errors import UserError
from shoal.evaluation import HeldOut, Truth, score_held_out
from shoal.features import Embedded
from shoal.features.matching import contents, pixel_fingerprint
from shoal.progress import Progress
from shoal.results.evaluate import truth_of
from shoal.results.networks import embed_more
from shoal.results.result import Result
from shoal.results.rows import assign_rows
from shoal.types import Images


def evaluate_held_out(result: Result, name: str, *, strict: bool, progress: Progress) -> HeldOut:
    """Put images with labels into the clusters of a result, and compare the two.

    Args:
        result: of images.
        name: of the held-out images, as ``shoal predict`` takes it.
        strict: whether to fail on the first image that cannot be read.
        progress: reports progress.

    Raises:
        UserError: features were clustered; the images cannot be read or have no labels; the network has changed.
    """
    if result.encoder is None or result.embedded is None:
        raise UserError(
            f"{result.folder.path} holds clusters of features, so no images can be put into them: give 'shoal "
            "evaluate' --features, --labels, --test-features and --test-labels."
        )
    source = find_source(name, every=result.every)
    ranges = result.embedded.ranges
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        at = Path(scratch) / "features"
        embedded = embed_more(result, source, at, ranges=ranges, strict=strict, progress=progress)
        for line in reading_notes(embedded.skipped, embedded.notes, len(embedded.ids)):
            progress.warn(line)
        truth = Truth(embedded.targets, classes=embedded.classes)
        model = result.model
        labels = assign_rows(embedded.features, model, model.centers, result.metric).labels
        own = truth_of(result), model.slots_of(result.assignments.labels)
        known = _among(_contents(result, source, embedded), {*_kept_of(result.embedded)})
        return score_held_out(truth, labels, len(model.centers), own=own, known=known)


@dataclass(frozen=True, eq=False)
class Own:
    """The images that clusters were made of: their true classes, their clusters, and what tells each from others."""

    truth: Truth
    labels: Int64[Tensor, "m"]
    contents: Collection[bytes]

    @classmethod
    def of_images(cls, images: Images, labels: Int64[Tensor, "m"]) -> Own:
        """Of images that are at hand."""
        return cls(Truth.of(images), labels, _contents_of(images))

    @classmethod
    def of_result(cls, result: Result) -> Own:
        """Of a finished run, whose images need not be there, by its clusters before any decision.

        Raises:
            UserError: its features are gone or damaged.
        """
        assert result.embedded is not None
        return cls(truth_of(result), result.clustered[1].labels, {*_kept_of(result.embedded)})


def score_given(
    images: Images, labels: Int64[Tensor, "n"], n_clusters: int, own: Own, classes: Sequence[object] | None
) -> HeldOut:
    """Compare clusters of held-out images with their classes.

    Args:
        images: held out.
        labels: their clusters.
        n_clusters: k.
        own: the images that the clusters were made of.
        classes: true class of each image, None for none; without it, those that the images have themselves.

    Raises:
        UserError: no image has a label, or a label is not a single value.
    """
    truth = Truth.of(images)
    if classes is not None:
        numbers, names = classes_of(classes, rows=images.ids)
        truth = Truth(torch.from_numpy(numbers), classes=names)
    known = _among(_contents_of(images), own.contents)
    return score_held_out(truth, labels, n_clusters, own=(own.truth, own.labels), known=known)


def _among(contents: Sequence[bytes], known: Collection[bytes]) -> Bool[Tensor, "n"]:
    return torch.tensor([content in known for content in contents], dtype=torch.bool)


def _kept_of(embedded: Embedded) -> list[bytes]:
    """What was kept that tells embedded images from others."""
    return [bytes(each) for each in embedded.fingerprints.numpy()]


def _contents_of(images: Images) -> list[bytes]:
    return [pixel_fingerprint(image.cpu().numpy()) for image in images.pixels]


def _contents(result: Result, source: Source, embedded: Embedded) -> list[bytes]:
    """What tells the images from others, in the same way as the result tells its own."""
    prepare = result.prepare
    if prepare is None:
        return _kept_of(embedded)
    return [content for _, content in contents(source.listing(), embedded.rows.numpy(), prepare)]

"""The images of a training run, read again."""

from __future__ import annotations

import torch

from shoal.data.images import images_of
from shoal.errors import UserError
from shoal.features.matching import pixel_fingerprint
from shoal.progress import Progress, counted
from shoal.results.changes import update_hint
from shoal.results.result import Result
from shoal.training.trained import Trained
from shoal.types import Images


def images_of_run(result: Result, trained: Trained, progress: Progress) -> Images:
    """The images of a training run as they are now, with those that an update has taken in, in the order of its rows.

    Their true classes may be missing: the result keeps them.

    Raises:
        UserError: they are gone, or have changed since.
    """
    embedded = result.embedded
    assert embedded is not None
    height, width = trained.size
    size = height if height == width else trained.config.data.size
    read = images_of(result.images, size=size, ranges=embedded.ranges, progress=progress.counter("reading images"))
    places = {name: row for row, name in enumerate(read.ids)}
    rows = [places.get(name, -1) for name in result.ids]
    same = sum(
        row >= 0 and pixel_fingerprint(read.pixels[row].numpy()) == bytes(known)
        for row, known in zip(rows, embedded.fingerprints.numpy(), strict=True)
    )
    if same < len(rows):
        lost = len(rows) - same
        many = counted(lost, "image is", "images are")
        raise UserError(f"{many} gone, renamed or changed since: {update_hint(result)}")
    if rows == [*range(len(read))]:  # else they would be copied
        return read
    clustered = (result.flags or {}).get("clustered", torch.ones(len(rows), dtype=torch.bool))
    return Images(read.pixels[rows], torch.full((len(rows),), -1), clustered, (), result.ids)

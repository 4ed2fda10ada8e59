"""Images of any source, decoded to one tensor."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from shoal.data import cache
from shoal.data.listing import Listing, Source, as_images
from shoal.data.reading import Progress, content_digest, read_all, refuse_skipped, skip_note
from shoal.data.sources.array import from_array
from shoal.data.sources.find import find_source
from shoal.data.threads import in_threads
from shoal.errors import UserError
from shoal.types import Images

_LOG = logging.getLogger("shoal")


@dataclass(frozen=True)
class DataConfig:
    """Which images to read."""

    path: str = "digits"
    """A folder, .zip, .tar (also .gz, .bz2, .xz), .parquet, .csv of paths or .npy file; a pattern in quotes, such as
    'photos/**/*.jpg' or 'shards/{000..099}.tar'; hf://owner/name; the name of a data set, e.g. cifar10; or - for paths
    on the standard input."""
    root: str = ""
    """Folder that holds the files of a named data set; by default they are downloaded into the cache."""
    size: Annotated[int, Ge(1)] | None = None
    """Bring images to squares of so many pixels (short side resized, centre kept); None: as they are."""
    strict: bool = False
    """Fail on the first image that cannot be read, instead of skipping it."""


def load_images(config: DataConfig, *, progress: Progress | None = None) -> Images:
    """Read the images that a config names.

    ``progress`` is told of each image decoded, and of nothing where the cache has them.

    Raises:
        UserError: the path leads to no images, or they cannot be read (see ``to_images``).
    """
    return to_images(config.path, root=config.root, size=config.size, strict=config.strict, progress=progress)


def to_images(
    source: str | Path | Sequence[str | Path] | NDArray[Any] | Tensor | Images,
    *,
    root: str = "",
    size: int | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Images:
    """Read images from an array, a tensor or whatever ``find_source`` takes: a path, a name, a list of image files.

    Arrays are (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w), uint8 or float in [0, 1]. ``Images`` pass
    through. Files that cannot be read are skipped, with one warning and their reasons in ``Images.skipped``.

    Raises:
        UserError: nothing there, no image that can be read, or a data set whose files cannot be had; images of several
            sizes without a ``size``; an array that is not one of images; or, if ``strict``, the first file that cannot
            be read.
    """
    if isinstance(source, Images):
        return source
    if isinstance(source, np.ndarray | Tensor):
        return from_array(source, "array", size)
    if not isinstance(source, str | Path | Sequence):
        raise UserError(f"cannot take images from a {type(source).__name__}: give a path, a list of paths or an array.")
    if not isinstance(source, str | Path) and not all(isinstance(path, str | Path) for path in source):
        raise UserError("a list of images holds paths; stack arrays into one of shape (n, h, w, 3).")
    found = find_source(source, root=root, progress=progress)
    return _from_source(found, size, strict, progress) if found.images is None else found.images(size)


def place_on(images: Images, device: torch.device) -> Images:
    """Put the pixels on a CUDA device, if they take less than half of what is free there.

    Otherwise, and on any other device, they stay where they are, and a batch travels when it is needed.
    """
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if images.pixels.nbytes * 2 >= free:
        return images
    return dataclasses.replace(images, pixels=images.pixels.to(device))


def _from_source(source: Source, size: int | None, strict: bool, progress: Progress | None) -> Images:
    stamp = cache.stamp_of(source, size)
    images = cache.recall(stamp)
    if images is None:
        images = _read(source, stamp, size, strict, progress)
    if strict:
        refuse_skipped(images.skipped)
    if images.skipped:
        _LOG.warning(skip_note(images.skipped, len(images)))
    return images


def _read(source: Source, stamp: str, size: int | None, strict: bool, progress: Progress | None) -> Images:
    """Images whose files have changed, or were never seen; the cache may still have them by their content."""
    listing = source.listing()
    half = cache.listing_key(listing, size)
    if cache.has_any(half):
        key = f"{half}-{content_digest(listing)}"
        if (images := cache.load(key)) is not None:
            cache.point(stamp, key)
            return images
    try:
        with cache.CacheWriter() as draft:
            reading = read_all(listing, size, draft.write, strict=strict, progress=progress)
            key = f"{half}-{reading.digest}"
            shape = (len(reading.kept), 3, reading.height, reading.width)
            images = draft.keep(key, shape, _kept(listing, reading.kept), reading.skipped)
            cache.point(stamp, key)
            return images
    except cache.UnwritableError as error:
        _LOG.warning(
            "decoded images cannot be kept in %s (%s): they stay in memory, and the next start decodes them "
            "again; SHOAL_CACHE can name another folder.",
            cache.cache_folder(),
            error,
        )
    buffer = bytearray()
    reading = read_all(listing, size, buffer.extend, strict=strict, progress=progress)
    pixels = np.frombuffer(buffer, np.uint8).reshape(-1, 3, reading.height, reading.width)
    kept = _kept(listing, reading.kept)
    return as_images(pixels, kept.targets, kept.classes, kept.ids, reading.skipped, kept.held_out, kept.clustered)


def _kept(listing: Listing, rows: Sequence[int]) -> Listing:
    each = {"ids": listing.ids, "held_out": listing.held_out, "clustered": listing.clustered}
    kept: dict[str, Any] = {name: [values[row] for row in rows] if len(values) else () for name, values in each.items()}
    return dataclasses.replace(listing, targets=np.asarray(listing.targets)[rows].tolist(), **kept)


def digest(images: Images) -> str:
    """What tells these images from others: size, names and pixels, which threads sum up block by block."""
    summary = hashlib.blake2b(repr((tuple(images.pixels.shape), list(images.ids))).encode(), digest_size=16)
    threads = os.cpu_count() or 1
    with closing(in_threads(_sum, torch.split(images.pixels, 1024), threads=threads, ahead=2 * threads)) as sums:
        for each in sums:
            summary.update(each)
    return summary.hexdigest()


def _sum(pixels: UInt8[Tensor, "b 3 h w"]) -> bytes:
    return hashlib.blake2b(pixels.cpu().contiguous().view(-1).numpy().data, digest_size=32).digest()

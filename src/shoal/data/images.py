"""Reading a data set: the config that names it, and its images as one tensor, from the cache if they are there."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import UInt8
from torch import Tensor

from shoal.data import cache
from shoal.data.batches import page_dropper
from shoal.data.file_stats import stats_in
from shoal.data.greys import Ranges, Scale, chosen_ranges
from shoal.data.listing import Files, Listing, Source, as_images
from shoal.data.reach import out_of_reach
from shoal.data.reading import content_digest, read_all, source_scale
from shoal.data.sources.find import find_source
from shoal.data.sources.video import check_has_videos
from shoal.data.threads import map_in_threads
from shoal.data.unread import reading_notes, refuse_skipped
from shoal.progress import ProgressCallback
from shoal.types import Images

_LOG = logging.getLogger("shoal")


@dataclass(frozen=True)
class DataConfig:
    """Which images to read."""

    path: str = "digits"
    """Folder; .zip, .tar (also .gz, .bz2, .xz), .parquet, .npy, or .csv of paths; pattern in quotes, such as
    'photos/**/*.jpg' or 'shards/{000..099}.tar'; any of these in a storage, such as s3://bucket/photos; hf://owner/name;
    name of a data set, such as cifar10; or - to read paths from standard input."""
    root: str = ""
    """Folder with the files of a named data set; by default they are downloaded to the cache."""
    every: str = ""
    """How often to take a frame of each video: 2s, 500ms, 1min, or scene for one frame of each scene; by default videos
    are not read."""
    size: Annotated[int, Ge(1)] | None = None
    """Resize the short side to this many pixels and crop the central square; None keeps the size."""
    range: tuple[float, float] | None = None
    """Values of more than 8 bits that become black and white; None takes what the files state, else measures the whole
    data set."""
    strict: bool = False
    """Fail on the first image that cannot be read instead of skipping it."""


def load_images(config: DataConfig, *, progress: ProgressCallback | None = None) -> Images:
    """Read the images that a config names.

    ``progress`` is called after each decoded image, and never if the images are cached.

    Raises:
        UserError: the path leads to no images, or they cannot be read (see ``images_of``).
    """
    source = find_source(config.path, root=config.root, every=config.every, progress=progress)
    check_has_videos(source, config.every, config.path)
    return images_of(
        source,
        size=config.size,
        ranges=chosen_ranges(config.range),
        strict=config.strict,
        progress=progress,
    )


def images_of(
    source: Source,
    *,
    size: int | None = None,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Images:
    """Read the images of a source.

    Raises:
        UserError: no image can be read; images differ in size and no ``size`` is given; or, if ``strict``, a file
            cannot be read.
    """
    if source.images is not None:
        return source.images(size, Scale(ranges))
    return _from_source(source, size, ranges or {}, strict, progress)


def place_on(images: Images, device: torch.device) -> Images:
    """Move the pixels to a CUDA device if they take less than half of its free memory.

    Otherwise, and for any other device, they stay, and each batch is copied when it is needed.
    """
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if images.pixels.nbytes * 2 >= free:
        return images
    return dataclasses.replace(images, pixels=images.pixels.to(device))


def _from_source(
    source: Source, size: int | None, known: Ranges, strict: bool, progress: ProgressCallback | None
) -> Images:
    has_stats = isinstance(source.files, Files) or source.has_stats
    stats = stats_in(source.listing(), range(len(source.listing().ids))) if has_stats else None
    stamp = cache.stamp_of(source, size, known)
    images = cache.recall(stamp) if source.stable else None
    if images is None:
        images = _read(source.listing(), stamp, size, known, strict, progress)
    if source.others is not None:
        images = dataclasses.replace(images, others=source.others)
    if strict:
        refuse_skipped(images.skipped)
    for line in reading_notes(images.skipped, images.notes, len(images)):
        _LOG.warning(line)
    if stats is not None:
        read = [name not in images.skipped for name in source.listing().ids] if images.skipped else slice(None)
        images = dataclasses.replace(images, file_stats=torch.from_numpy(stats[read]))
    return images


def _read(
    listing: Listing, stamp: str, size: int | None, known: Ranges, strict: bool, progress: ProgressCallback | None
) -> Images:
    """Read images whose files are new or changed; the cache may still have the same content."""
    prefix = cache.listing_key(listing, size, known)
    if cache.has_any(prefix):
        key = f"{prefix}-{content_digest(listing)}"
        if (images := cache.load(key)) is not None:
            cache.remember(stamp, key)
            return dataclasses.replace(images, others=listing.others)
    scale = source_scale(listing, ranges=known)
    try:
        with cache.CacheWriter() as writer:
            reading = read_all(listing, size, writer.write, scale=scale, strict=strict, progress=progress)
            key = f"{prefix}-{reading.digest}"
            images = writer.finish(key, _subset(listing, reading.kept), reading, scale.ranges)
            if not any(map(out_of_reach, reading.skipped.values())):  # else look again next time
                cache.remember(stamp, key)
            return images
    except cache.UnwritableError as error:
        _LOG.warning(
            "cannot cache decoded images in %s (%s): they stay in memory and will be decoded again next time; "
            "set SHOAL_CACHE to use another folder.",
            cache.cache_folder(),
            error,
        )
    buffer = bytearray()
    reading = read_all(listing, size, buffer.extend, scale=scale, strict=strict, progress=progress)
    pixels = np.frombuffer(buffer, np.uint8).reshape(-1, 3, reading.height, reading.width)
    kept = _subset(listing, reading.kept)
    images = as_images(pixels, kept.targets, kept.classes, kept.ids, reading.skipped, kept.held_out, kept.clustered)
    return dataclasses.replace(images, notes=reading.notes, ranges=scale.ranges, others=listing.others)


def _subset(listing: Listing, rows: Sequence[int]) -> Listing:
    each = {"ids": listing.ids, "held_out": listing.held_out, "clustered": listing.clustered}
    kept: dict[str, Any] = {name: [values[row] for row in rows] if len(values) else () for name, values in each.items()}
    return dataclasses.replace(listing, targets=np.asarray(listing.targets)[rows].tolist(), **kept)


def digest(images: Images) -> str:
    """Return a hash of the images' size, names and pixels, computed in threads."""
    summary = hashlib.blake2b(repr((tuple(images.pixels.shape), list(images.ids))).encode(), digest_size=16)
    threads = os.cpu_count() or 1
    blocks, drop = torch.split(images.pixels, 1024), page_dropper(images.pixels)

    def digest_of(block: UInt8[Tensor, "b 3 h w"]) -> bytes:
        found = hashlib.blake2b(block.cpu().contiguous().view(-1).numpy().data, digest_size=32).digest()
        drop(block)
        return found

    with closing(map_in_threads(digest_of, blocks, threads=threads, ahead=2 * threads)) as digests:
        for each in digests:
            summary.update(each)
    return summary.hexdigest()

"""The one door through which images come in, whatever they are stored as."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from shoal.data import cache
from shoal.data.arrays import digits, from_array, from_npy
from shoal.data.assemble import as_images
from shoal.data.decode import FORMATS
from shoal.data.listing import Listing, Source, folder_source, list_source, walk
from shoal.data.named import DATA_SETS, named_source
from shoal.data.parquet import parquet_source
from shoal.data.reading import Progress, content_digest, read_all, refuse_skipped
from shoal.errors import UserError
from shoal.types import Images

_LOG = logging.getLogger("shoal")
IN_MEMORY = "(images given in Python)"
"""Stands for the path of the images in the config of a run whose images no path leads to."""

_SHOWN = 5  # skipped files that the warning names


@dataclass(frozen=True)
class DataConfig:
    """Which images to read."""

    path: str = "digits"
    """A folder of images, a Parquet file or a folder of them, a .npy file, or the name of a data set, e.g. cifar10."""
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
    """Read images from a path or name (as ``DataConfig``), a list of image files, an array or a tensor.

    Arrays are (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w), uint8 or float in [0, 1]. ``Images`` pass
    through. Files that cannot be read are skipped, with one warning and their reasons in ``Images.skipped``.

    Raises:
        UserError: nothing there, no image that can be read, or a data set whose files cannot be had; images of several
            sizes without a ``size``; an array that is not one of images; or, if ``strict``, the first file that cannot
            be read.
    """
    if isinstance(source, Images):
        return source
    if isinstance(source, str | Path):
        if source in DATA_SETS:
            return _by_name(str(source), root, size, strict, progress)
        if root:
            raise UserError(f"--data.root goes with the name of a data set, and {source} is none: leave it out.")
        return _from_path(source, size, strict, progress)
    if isinstance(source, np.ndarray | Tensor):
        return from_array(source, "array", size)
    if isinstance(source, Sequence):
        if not all(isinstance(path, str | Path) for path in source):
            raise UserError("a list of images holds paths; stack arrays into one of shape (n, h, w, 3).")
        return _from_source(list_source(source), size, strict, progress)
    raise UserError(f"cannot take images from a {type(source).__name__}: give a path, a list of paths or an array.")


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


def _by_name(name: str, root: str, size: int | None, strict: bool, progress: Progress | None) -> Images:
    if Path(name).is_dir():
        kind = "built-in digits" if name == "digits" else f"published {name}"
        _LOG.warning("these are the %s: to read the folder of that name, give ./%s", kind, name)
    if name == "digits":
        return digits(size)
    return _from_source(named_source(name, root, progress), size, strict, progress)


def _from_path(name: str | Path, size: int | None, strict: bool, progress: Progress | None) -> Images:
    if name == IN_MEMORY:
        advice = "fit them in Python again, or save them as a folder or a .npy file and give its path"
        raise UserError(f"the images of this run were given in Python, so no path leads to them: {advice}.")
    if name == "":
        raise UserError("the path of the images is empty: give a folder, a .parquet or .npy file, or a data set name.")
    path = Path(name).expanduser()
    try:
        if not path.exists():
            raise UserError(_missing(path))
        is_folder = path.is_dir()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    if is_folder:
        return _from_source(_in_folder(path), size, strict, progress)
    if path.suffix.lower() == ".npy":
        return from_npy(path, size)
    if path.suffix.lower() == ".parquet":
        return _from_source(parquet_source(path.parent, [path.name]), size, strict, progress)
    alone = "one image is not a data set; " if path.suffix.lower() in FORMATS else ""
    raise UserError(f"cannot take images from {path}: {alone}give a folder, a .parquet or a .npy file.")


def _in_folder(folder: Path) -> Source:
    found = walk(folder)
    shards = [name for name in found if name.lower().endswith(".parquet")]
    pictures = any(Path(name).suffix.lower() in FORMATS for name in found)
    return parquet_source(folder, shards) if shards and not pictures else folder_source(folder, found)


def _missing(path: Path) -> str:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    known = [*beside, *DATA_SETS] if path.name == str(path) else beside
    near = difflib.get_close_matches(path.name, known, n=3)
    hint = f": did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else "."
    return f"there is no file or folder {path}{hint}"


def _from_source(source: Source, size: int | None, strict: bool, progress: Progress | None) -> Images:
    stamp = cache.stamp_of(source, size)
    images = cache.recall(stamp)
    if images is None:
        images = _read(source, stamp, size, strict, progress)
    if strict:
        refuse_skipped(images.skipped)
    if images.skipped:
        _LOG.warning(_skip_note(images.skipped, len(images)))
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
        with cache.Draft() as draft:
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
    return as_images(pixels, kept.labels, kept.classes, kept.ids, reading.skipped, kept.held_out, kept.clustered)


def _kept(listing: Listing, rows: Sequence[int]) -> Listing:
    each = {"ids": listing.ids, "labels": listing.labels, "held_out": listing.held_out, "clustered": listing.clustered}
    kept: dict[str, Any] = {name: [values[row] for row in rows] if values else () for name, values in each.items()}
    return dataclasses.replace(listing, **kept)


def _skip_note(skipped: Mapping[str, str], read: int) -> str:
    # Like repr without its quotes: a line break in a name does not break the line.
    some = ", ".join(f"{repr(name)[1:-1]} ({reason})" for name, reason in list(skipped.items())[:_SHOWN])
    more = ", …" if len(skipped) > _SHOWN else ""
    total = read + len(skipped)
    return f"{len(skipped)} of {total} images could not be read and were skipped: {some}{more}"

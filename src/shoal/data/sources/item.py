"""One item of a data set or an iterable in Python: its image as a blob, and its label."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from shoal.data.decode import UnreadableError
from shoal.data.greys import Ranges
from shoal.data.listing import Blob, Pixels
from shoal.data.rgb import orientation_of, to_array, to_rgb, turned
from shoal.data.sources.array import blob_of_array, blob_of_greys
from shoal.data.sources.labels import is_missing
from shoal.files import expand_home

IMAGE_KEYS = ("image", "img", "pixel_values", "pixels", "picture", "photo", "png", "jpg", "jpeg", "webp")
"""Keys under which an item has its image; the first that is there counts."""

LABEL_KEYS = ("label", "labels", "class", "target", "category", "coarse_label", "fine_label", "cls", "y")
"""Keys under which it has its label."""


def image_of(item: object) -> object:
    """The image of an item: the first of a tuple, the one under a key of ``IMAGE_KEYS``, or the item itself.

    Raises:
        UnreadableError: a dictionary has none of the keys.
    """
    if isinstance(item, tuple | list) and item and not isinstance(item[0], int | float | tuple | list):
        return item[0]
    if isinstance(item, Mapping) and not is_encoded(item):
        found = next((key for key in IMAGE_KEYS if key in item), None)
        if found is None:
            keys = ", ".join(map(str, [*item][:10]))
            raise UnreadableError(f"it has no key 'image', 'img' or 'pixel_values', but {keys or 'none at all'}")
        return item[found]
    return item


def label_of(item: object) -> object:
    """The label of an item as Python has it: None where there is none, ``...`` where it is not a single value."""
    label: Any = None
    if isinstance(item, tuple | list) and len(item) > 1:
        label = item[1]
    elif isinstance(item, Mapping) and not is_encoded(item):
        label = next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.item() if (label.numel() if isinstance(label, Tensor) else label.size) == 1 else ...
    if is_missing(label):
        return None
    return label if isinstance(label, str | int | float) else ...


def is_encoded(item: object) -> bool:
    """Whether an item is an encoded image as Hugging Face's data sets have it."""
    return isinstance(item, Mapping) and {*item} == {"bytes", "path"}


def blob_of(image: object, name: str, ranges: Ranges) -> Blob:
    """Make a blob of an image of any kind.

    Args:
        image: an image of Pillow's, an array or tensor, the bytes of a file, or a path.
        name: of the image, for messages.
        ranges: values that become black and white, by type of number.

    Raises:
        UnreadableError: it is not an image, or a damaged one.
        UserError: as ``blob_of_array``.
    """
    if isinstance(image, Image.Image):
        return _blob_of_pillow(image)
    if isinstance(image, np.ndarray | Tensor):
        return blob_of_array(image, name, ranges)
    if is_encoded(image):
        assert isinstance(image, Mapping)
        image = image["bytes"] if image["bytes"] is not None else image["path"]
    if isinstance(image, str | os.PathLike):
        return Path(os.path.abspath(expand_home(os.fspath(image))))  # noqa: PTH100 - without following links
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if hasattr(image, "__array__"):
        return blob_of_array(np.asarray(image), name, ranges)
    raise UnreadableError("it is None" if image is None else f"it is not an image but of type {type(image).__name__}")


def _blob_of_pillow(image: Image.Image) -> Blob:
    if not (image.width and image.height):
        raise UnreadableError(f"its size is {image.width} × {image.height}: it has no pixels")
    image.load()
    upright = turned(image, orientation_of(image))
    if image.mode[0] in "IF":
        return blob_of_greys(np.asarray(upright))
    pixels: Pixels = to_array(to_rgb(upright))
    return pixels

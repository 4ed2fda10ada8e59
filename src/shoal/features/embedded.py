"""Features that are kept, as they are read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from shoal.clustering.inputs import tensor_on
from shoal.data.greys import BEFORE, Ranges
from shoal.data.listing import Names
from shoal.data.sketch import SKETCH
from shoal.errors import UserError
from shoal.features.encoder import EncoderSpec

FORMAT = 3
"""Version of the folder; a newer one is refused."""


SINGLE = 2
"""Version of the folder of a single network, in which nothing has changed since."""


FEATURES = "features.f32"


LINKS = "links.i64"


SKETCHES = "sketches.bin"


SHARDS = "shards"
"""A folder within, with parts that several processes have computed, until they are taken in."""


FILES = (
    *("names.txt", "names.i64", "labels.i64", FEATURES, "rows.i64", "fingerprints.bin", "looks.i64", SKETCHES),
    *(LINKS, "journal.jsonl"),
)


ADDED = ("looks.i64", SKETCHES)
"""Files with a row for each image that folders of older versions lack."""


FINGERPRINT = 16  # bytes


STAT_COLUMNS = 3  # numbers


@dataclass(frozen=True, eq=False)
class Embedded:
    """The content of a finished folder; rows are the readable images, in the listing's order."""

    features: Float[Tensor, "n d"]
    """Float32, memory-mapped."""
    rows: Int64[Tensor, "n"]
    """Rows of the listing."""
    ids: Sequence[str]
    targets: Int64[Tensor, "n"]
    """-1: none."""
    classes: tuple[str, ...]
    fingerprints: UInt8[Tensor, "n 16"]
    """Equal for equal files."""
    skipped: Mapping[str, str]
    """Reason for each image that could not be read, by its name."""
    spec: EncoderSpec
    images: str = ""
    """Digest of names, labels and files of the listing, as the header has it."""
    pixels: tuple[int, int] | None = None
    """Height and width of the pixels that fingerprints are of; None: they are of files."""
    stats: Int64[Tensor, "n 3"] | None = None
    """``stat_file`` of each image before it was read, −1 where it has none; None in older folders."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What images that were read lack, by their names."""
    ranges: Ranges = field(default_factory=dict)
    """Values of more than 8 bits that became black and white, by type of number."""
    sketches: Shaped[np.ndarray, "n"] | None = None
    """Records of ``data.sketch.SKETCH``, of width 0 where there is none; None in folders of earlier versions."""
    links: Int64[Tensor, "m 2"] | None = None
    """Rows that are other names of a file, and the row of that file; None in folders of earlier versions."""
    listed: Sequence[str] = ()
    """Names of all images of the listing, also of those that could not be read."""

    @property
    def of_pixels(self) -> bool:
        """Whether fingerprints are of decoded images, as those that a training run keeps are, and not of files."""
        return self.spec.kind == "run" and not self.spec.name


@dataclass(frozen=True)
class Header:
    """What a folder was created for."""

    spec: EncoderSpec
    n: int
    """Images of the listing."""
    n_features: int
    batch_size: int
    images: str
    """Digest of names, labels and files."""
    classes: tuple[str, ...]
    pixels: tuple[int, int] | None = None
    """Height and width, where fingerprints are of pixels."""
    ranges: Ranges = field(default_factory=dict)
    """As in ``Embedded``; those that are measured are added when the images are done."""


@dataclass(frozen=True)
class Progressed:
    """A line of the journal: images processed, images with features, batch size from here on."""

    looked_at: int
    kept: int
    batch_size: int


def open_embedded(folder: Path, *, unfinished: bool = False) -> Embedded:
    """Open a finished folder of features; the images are not needed.

    Args:
        folder: of the features.
        unfinished: take what an interrupted embedding has committed, too.

    Raises:
        UserError: the folder has no features, is unfinished or damaged, or was written by a newer version.
    """
    header = read_header(folder)
    if header is None:
        raise UserError(f"{folder} holds no features: create them with 'shoal cluster'.")
    done, skipped, notes = read_journal(folder)
    if done.looked_at < header.n and not unfinished:
        raise UserError(
            f"{folder} has features of {done.looked_at} of {header.n} images: run the same command again to resume."
        )
    try:
        rows = mapped(folder / "rows.i64", np.int64, (done.kept,))
        ends = mapped(folder / "names.i64", np.int64, (header.n,))
        text = mapped(folder / "names.txt", np.uint8, (-1,))
        names = Names.from_buffers(text, ends)
        stats, labels = folder / "looks.i64", tensor_on(mapped(folder / "labels.i64", np.int64, (header.n,)))
        return Embedded(
            tensor_on(mapped(folder / FEATURES, np.float32, (done.kept, header.n_features))),
            tensor_on(rows),
            names.take(rows) if len(rows) < header.n else names,
            labels[tensor_on(rows)] if len(rows) < header.n else labels,
            header.classes,
            tensor_on(mapped(folder / "fingerprints.bin", np.uint8, (done.kept, FINGERPRINT))),
            {names[row]: reason for row, reason in skipped.items()},
            header.spec,
            header.images,
            header.pixels,
            tensor_on(mapped(stats, np.int64, (done.kept, STAT_COLUMNS))) if stats.exists() else None,
            {names[row]: note for row, note in notes.items()},
            header.ranges,
            _optional(folder / SKETCHES, SKETCH, (done.kept,)),
            None
            if (links := _optional(folder / LINKS, np.dtype(np.int64), (-1,))) is None
            else _pairs(links, done.kept),
            names,
        )
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise damaged_error(folder, error) from error


def has_links(folder: Path) -> bool:
    """Whether links have been looked for."""
    return (folder / LINKS).is_file()


def _optional(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Shaped[np.ndarray, "..."] | None:
    """Map a file that earlier versions did not write."""
    return mapped(path, dtype, shape) if path.is_file() else None


def _pairs(numbers: Int64[np.ndarray, "m"], n: int) -> Int64[Tensor, "m 2"]:
    pairs = tensor_on(numbers.reshape(-1, 2))
    if not ((pairs >= 0) & (pairs < n)).all():
        raise ValueError(f"{LINKS} names rows that do not exist")
    return pairs


def stored_columns(folder: Path, n: int) -> dict[str, UInt8[np.ndarray, "n _bytes"]]:
    """The first n rows of each file that has a row for each image, as bytes; those of older versions have fewer files.

    Raises:
        UserError: the folder is damaged.
    """
    header = read_header(folder)
    assert header is not None
    try:
        sizes = {name: size for name, size in row_bytes_of(header).items() if (folder / name).exists()}
        return {name: mapped(folder / name, np.uint8, (n, size)) for name, size in sizes.items()}
    except (OSError, ValueError) as error:
        raise damaged_error(folder, error) from error


def mapped(path: Path, dtype: type[np.generic] | np.dtype[Any], shape: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    """Map a file for reading; one that is too short raises a ValueError, and bytes beyond ``shape`` are ignored."""
    if shape[0] == 0 or (shape == (-1,) and path.stat().st_size == 0):
        return np.zeros([max(side, 0) for side in shape], dtype)
    return np.memmap(path, dtype, "r", shape=None if shape == (-1,) else shape)


def read_header(folder: Path) -> Header | None:
    """Read what a folder was created for; None if it was not.

    Raises:
        UserError: it is damaged, or a newer version wrote it.
    """
    path = folder / "header.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format")
        if version > FORMAT:
            raise UserError(
                f"{folder} was written by a newer version of shoal (format {version}, this one reads up to {FORMAT}): "
                "upgrade shoal to use it."
            )
        spec, classes = EncoderSpec.from_values(values.pop("spec")), tuple(values.pop("classes"))
        pixels = values.pop("pixels", None)
        ranges = {name: (float(low), float(high)) for name, (low, high) in values.pop("ranges", BEFORE).items()}
        size = None if pixels is None else tuple(pixels)
        return Header(spec=spec, classes=classes, pixels=size, ranges=ranges, **values)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_error(folder, error) from error


def row_bytes_of(header: Header) -> dict[str, int]:
    """Bytes of each row, by the file that has them."""
    return {
        FEATURES: 4 * header.n_features,
        "rows.i64": 8,
        "fingerprints.bin": FINGERPRINT,
        "looks.i64": 8 * STAT_COLUMNS,
        SKETCHES: SKETCH.itemsize,
    }


def read_journal(folder: Path) -> tuple[Progressed, dict[int, str], dict[int, str]]:
    """Return how far a folder has come, which rows were skipped, and what others lack."""
    done = Progressed(0, 0, 0)
    skipped: dict[int, str] = {}
    notes: dict[int, str] = {}
    try:
        with (folder / "journal.jsonl").open(encoding="utf-8") as file:
            for text in file:
                if text.endswith("\n"):  # a killed process can leave half a line
                    line: dict[str, Any] = json.loads(text)
                    skipped |= {int(row): str(reason) for row, reason in line.pop("skipped")}
                    notes |= {int(row): str(note) for row, note in line.pop("notes", [])}
                    done = Progressed(**line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_error(folder, error) from error
    return done, skipped, notes


def is_begun(folder: Path) -> bool:
    """Whether a folder of features has got beyond its header."""
    return (folder / SHARDS).exists() or read_journal(folder)[0].looked_at > 0


def damaged_error(folder: Path, error: Exception) -> UserError:
    """What to say of a folder that cannot be what this project wrote."""
    return UserError(f"the features in {folder} are damaged ({error}): remove the folder to recompute them.")

"""What is known of the images under review beside their features: dates, folders, sizes, thumbnails, the files."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64
from PIL import Image, UnidentifiedImageError

from shoal.data.decode import UnreadableError
from shoal.data.file_stats import NO_STAT, stat_of
from shoal.data.greys import Scale
from shoal.data.listing import Blob, Frame, Listing, check_regular
from shoal.data.reading import ToSquare, decode_blob, map_rows, open_content, read_blob
from shoal.errors import UserError
from shoal.results.atlas import encode, read_encoded
from shoal.results.page import read_copies
from shoal.results.result import Result

EDGE = 96
"""Of thumbnails that the report does not hold, in pixels."""

KEPT_BYTES = 2**26
"""Of thumbnails made meanwhile, in memory."""

LARGEST_EDGE = 4096
"""Of an image that a browser cannot show as it is, in pixels."""

SHOWN_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
UNKNOWN_DATE = -(2**31)
TAKEN = (0x9003, 0x0132)  # DateTimeOriginal in the Exif folder, DateTime beside it
MOST_FOLDERS = 500


class Facts:
    """Of the images of a result; what is slow to know is looked up when it is asked for."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.ids = result.table_ids
        self._lock = threading.Lock()
        self._made: OrderedDict[int, bytes] = OrderedDict()
        self._made_bytes = 0

    # Pictures

    @cached_property
    def _atlas(self) -> dict[int, bytes]:
        try:
            names, encoded = read_encoded(self.result.folder.atlas)
        except UserError:  # features have no images, and others are made anew
            return {}
        rows = {name: row for row, name in enumerate(self.ids)}
        return {rows[name]: image for name, image in zip(names, encoded, strict=True) if name in rows}

    @cached_property
    def _listing(self) -> Listing:
        return self.result.listing

    @cached_property
    def _places(self) -> Int64[np.ndarray, "n"]:
        """Where each image is in the listing; −1 for one that is gone or has changed."""
        matched = self.result.matched
        places = np.full(len(self.ids), -1, dtype=np.int64)
        places[matched.there] = matched.rows[matched.there]
        return places

    def _place(self, row: int) -> int:
        with self._lock:
            return int(self._places[row])

    def thumbs(self, rows: list[int]) -> list[bytes]:
        """Thumbnails as WebP; empty where the image is gone or cannot be read."""
        found = {row: self._atlas.get(row) or self._made.get(row, b"") for row in rows}
        lacking = sorted({row for row, image in found.items() if not image})
        if lacking:
            found |= self._make(lacking)
        return [found[row] for row in rows]

    def _make(self, rows: list[int]) -> dict[int, bytes]:
        try:
            places = {self._place(row): row for row in rows}
        except UserError:  # the source is gone: what the report holds is shown all the same
            return {}
        places.pop(-1, None)
        embedded = self.result.embedded
        scale = Scale(None if embedded is None else embedded.ranges)
        order = sorted(places)

        def work(blob: Blob) -> bytes:
            decoded = decode_blob(ToSquare(EDGE), scale, blob)
            if isinstance(decoded.pixels, str):
                return b""
            return encode(torch.from_numpy(decoded.pixels), EDGE)

        made = {places[place]: image for place, image in zip(order, map_rows(work, self._listing, order), strict=True)}
        with self._lock:
            for row, image in made.items():
                if row not in self._made:
                    self._made[row] = image
                    self._made_bytes += len(image)
            while self._made_bytes > KEPT_BYTES:
                self._made_bytes -= len(self._made.popitem(last=False)[1])
        return {row: made.get(row, b"") for row in rows}

    def full(self, row: int) -> tuple[bytes, str] | None:
        """The image for a browser, and its type; None where it is gone, has changed or cannot be read."""
        try:
            place = self._place(row)
        except UserError:
            return None
        if place < 0:
            return None
        data, fingerprint = next(iter(map_rows(read_blob, self._listing, [place])))
        if isinstance(data, str) or self._is_other(row, fingerprint):
            return None
        if isinstance(data, bytes):
            try:
                with Image.open(io.BytesIO(data)) as image:
                    kind, mode = image.format or "", image.mode
                if kind in SHOWN_AS_THEY_ARE and mode in ("RGB", "L", "P", "RGBA", "1", "LA"):
                    return data, SHOWN_AS_THEY_ARE[kind]
            except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
                pass
        return self._as_jpeg(data)

    def _is_other(self, row: int, fingerprint: bytes) -> bool:
        """Whether a file has other content than was clustered, as where it was changed during the review."""
        embedded = self.result.embedded
        if embedded is None or embedded.of_pixels:
            return False
        return fingerprint != bytes(embedded.fingerprints[row].numpy())

    def _as_jpeg(self, data: Any) -> tuple[bytes, str] | None:
        embedded = self.result.embedded
        try:
            # No larger than need be: a JPEG of more pixels than Pillow opens was clustered from a reduced size as well.
            image, _ = open_content(data, LARGEST_EDGE, Scale(None if embedded is None else embedded.ranges))
        except UnreadableError:
            return None
        image.thumbnail((LARGEST_EDGE, LARGEST_EDGE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        return file.getvalue(), "image/jpeg"

    # Dates, folders, names

    @cached_property
    def folders(self) -> tuple[list[list[Any]], Int32[np.ndarray, "n"]]:
        """Folders with their numbers of images, most first, and the folder of each image; −1 for one not listed."""
        names = np.array([name.rpartition("/")[0] for name in self.ids], dtype=object)
        found, inverse, counts = np.unique(names.astype(str), return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST_FOLDERS]
        place = np.full(len(found), -1, dtype=np.int32)
        place[order] = np.arange(len(order))
        return [[str(found[i]), int(counts[i])] for i in order.tolist()], place[inverse]

    @cached_property
    def dates(self) -> Int32[np.ndarray, "n"]:
        """Minutes since 1970 at which each image was taken, or else its file was written; ``UNKNOWN_DATE`` for none."""
        found = np.full(len(self.ids), UNKNOWN_DATE, dtype=np.int32)
        try:
            with self._lock:
                places, listing = self._places, self._listing
        except UserError:
            return found
        known = np.flatnonzero(places >= 0)
        order = known[np.argsort(places[known], kind="stable")]
        for row, minutes in zip(order.tolist(), map_rows(_taken, listing, places[order].tolist()), strict=True):
            found[row] = minutes
        return found

    def _date(self, row: int) -> int:
        """That of one image, without looking at all of them."""
        try:
            place = self._place(row)
        except UserError:
            return UNKNOWN_DATE
        if place < 0:
            return UNKNOWN_DATE
        return next(iter(map_rows(_taken, self._listing, [place])))

    def search(self, text: str, folder: str, start: str, end: str) -> Int32[np.ndarray, "m"]:
        """Rows whose id has a text in it, which are in a folder and between two days.

        Raises:
            UserError: a day is none.
        """
        wanted = np.ones(len(self.ids), dtype=bool)
        if text:
            low = text.casefold()
            wanted &= np.fromiter((low in name.casefold() for name in self.ids), bool, len(self.ids))
        if folder:
            under = folder.rstrip("/") + "/"
            wanted &= np.fromiter((name.startswith(under) for name in self.ids), bool, len(self.ids))
        if start or end:
            dates = self.dates.astype(np.int64)
            wanted &= dates != UNKNOWN_DATE
            if start:
                wanted &= dates >= _minutes(start)
            if end:
                wanted &= dates < _minutes(end) + 24 * 60
        return np.flatnonzero(wanted).astype(np.int32)

    def duplicates(self) -> list[dict[str, Any]]:
        """Groups of near-duplicates, with the one to keep."""
        found, _ = read_copies(self.result.folder.duplicates)
        wanted = {each.id for copies in found.values() for each in copies}
        rows = {name: row for row, name in enumerate(self.ids) if name in wanted}
        groups = {
            group: [{"row": rows[each.id], "keep": each.keep, "note": each.note} for each in copies if each.id in rows]
            for group, copies in found.items()
        }
        return [{"group": group, "images": images} for group, images in groups.items() if len(images) > 1]

    def about(self, row: int) -> dict[str, Any]:
        """Size, date and true class of an image."""
        embedded = self.result.embedded
        label = None
        if embedded is not None and int(embedded.targets[row]) >= 0:
            label = embedded.classes[int(embedded.targets[row])]
        size = None
        if embedded is not None and embedded.sketches is not None and embedded.sketches[row]["width"]:
            size = [int(embedded.sketches[row]["width"]), int(embedded.sketches[row]["height"])]
        minutes = self._date(row)
        when = None if minutes == UNKNOWN_DATE else datetime.fromtimestamp(minutes * 60, UTC).strftime("%Y-%m-%d %H:%M")
        return {"label": label, "size": size, "date": when}


def _taken(blob: Blob) -> int:
    """Minutes since 1970 at which an image was taken."""
    try:
        if (text := _stated_date(blob)) is not None:
            taken = datetime.strptime(text[:16], "%Y:%m:%d %H:%M").replace(tzinfo=UTC)
            return _in_range(int(taken.timestamp() // 60))
    except Exception:
        pass
    _, written, _ = stat_of(blob)
    return UNKNOWN_DATE if written == NO_STAT[1] else _in_range(written // (60 * 10**9))


def _in_range(minutes: int) -> int:
    """``UNKNOWN_DATE`` for one that int32 has no room for, as in the year 9999."""
    return minutes if abs(minutes) < 2**31 else UNKNOWN_DATE


def _stated_date(blob: Blob) -> str | None:
    """What an image file says of it; None for what says nothing, as frames of videos."""
    opened: Any = blob
    if isinstance(blob, Path):
        check_regular(blob)  # a pipe would be waited for
    elif isinstance(blob, Frame) or not isinstance(data := read_blob(blob)[0], bytes):
        return None
    else:
        opened = io.BytesIO(data)
    with Image.open(opened) as image:
        exif = image.getexif()
        text = exif.get_ifd(0x8769).get(TAKEN[0]) or exif.get(TAKEN[1])
    return None if text is None else str(text)


def _minutes(day: str) -> int:
    try:
        return int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp() // 60)
    except ValueError as error:
        raise UserError(f"{day!r} is not a date: write it as 2026-11-29.") from error

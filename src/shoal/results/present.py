"""The images of a result that are there and unchanged, to be sorted or exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from shoal.data.kinds import is_image_name
from shoal.data.listing import Names
from shoal.data.prefetch import Prefetched
from shoal.data.reading import Content, read_blob, select
from shoal.features.matching import fingerprint_of
from shoal.files import is_folder
from shoal.results.result import Result

OTHER = "it is another image than was clustered"


@dataclass(frozen=True, eq=False)
class PresentImages:
    """The images of ``Result.present``, in its order."""

    result: Result

    @property
    def ids(self) -> Sequence[str]:
        """Their names when they were clustered."""
        ids, rows = self.result.ids, self.result.present
        return ids.take(rows) if isinstance(ids, Names) else [ids[row] for row in rows.tolist()]

    @cached_property
    def listed(self) -> Int64[np.ndarray, "m"]:
        """Their rows in the listing of the source."""
        found: Int64[np.ndarray, "m"] = self.result.matched.rows[self.result.present]
        return found

    @cached_property
    def paths(self) -> Sequence[Path | None]:
        """Their files; None for what lies inside an archive, a table, a video or a storage."""
        return self.result.listing.paths(self.listed)

    @property
    def archives(self) -> list[Path]:
        """The archives, tables and videos on this machine that some of them may lie inside."""
        if all(path is not None for path in self.paths):
            return []
        own = set(self.paths)
        files = (file for file in self.result.images.files if not is_image_name(file.name) and file not in own)
        return [file for file in files if file.is_file()]

    @property
    def sizes(self) -> Sequence[int]:
        """Their bytes, as their storage says; −1 where it does not. Empty: they are in none."""
        listing = self.result.listing
        if listing.stats is None:
            return ()
        frames = np.asarray(listing.times)[self.listed] >= 0 if len(listing.times) else False
        found: list[int] = np.where(frames, -1, listing.stats[self.listed, 0]).tolist()
        return found

    @property
    def source_folders(self) -> Sequence[Path]:
        """The folders that are looked at for images."""
        source, joined = self.result.source, self.result.joined
        specs = [*([source] if isinstance(source, str) else []), *(spec for _, spec in joined)]
        return [Path(spec) for spec in specs if is_folder(spec)]

    def contents(self, wanted: Sequence[int] | None = None) -> Iterator[Content]:
        """Read the images, or some of them, which ascend.

        One that has become another since it was matched is not given: not all storages say when that happens.
        """
        at = slice(None) if wanted is None else np.asarray(wanted, np.int64)
        embedded, prepare = self.result.embedded, self.result.prepare
        assert embedded is not None  # otherwise there are no images
        known = embedded.fingerprints.numpy()
        rows = self.result.present[at].tolist()
        with contextlib.closing(Prefetched(select(self.result.listing, self.listed[at].tolist()))) as blobs:
            for row, blob in zip(rows, blobs, strict=True):
                data, content = read_blob(blob)
                same = isinstance(data, str) or fingerprint_of(data, content, prepare) == bytes(known[row])
                yield data if same else OTHER

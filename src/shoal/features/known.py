"""Features that need not be computed again, since an earlier folder has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from shoal.data.file_stats import NO_STAT
from shoal.features.embedded import open_embedded, stored_columns
from shoal.features.matching import Matched

Columns = Mapping[str, UInt8[np.ndarray, "b _bytes"]]
"""What the files of a folder have of some images, a row of bytes for each."""

_CHUNK = 8192
"""Images that are copied at once."""


@dataclass(frozen=True, eq=False)
class Known:
    """Which of the n images of a listing are in earlier folders: the number of the folder, −1 for none, and the row."""

    folder: Int64[np.ndarray, "n"]
    row: Int64[np.ndarray, "n"]
    stats: Int64[np.ndarray, "n 3"]
    columns: Sequence[Columns]
    notes: Mapping[int, str]
    """What those images lack."""

    @classmethod
    def found(cls, folders: Sequence[tuple[Path, Matched]], n: int) -> Known:
        """Those of folders that need not be finished, given where their images are; later folders win.

        Raises:
            UserError: one of the folders is damaged.
        """
        if not folders:  # as for most: no number for each of millions
            nowhere = np.broadcast_to(np.int64(-1), n)
            return cls(nowhere, nowhere, np.broadcast_to(np.int64(-1), (n, len(NO_STAT))), [], {})
        folder, row = np.full(n, -1), np.full(n, -1)
        stats = np.full((n, len(NO_STAT)), NO_STAT, np.int64)
        columns, notes = [], dict[int, str]()
        for number, (path, matched) in enumerate(folders):
            there = matched.there
            rows = matched.rows[there]
            folder[rows], row[rows], stats[rows] = number, there, matched.stats[there]
            columns.append(stored_columns(path, len(matched.rows)))
            kept = open_embedded(path, unfinished=True)
            if kept.notes:
                noted = zip(matched.rows.tolist(), kept.ids, strict=True)
                notes |= {at: kept.notes[name] for at, name in noted if at >= 0 and name in kept.notes}
        return cls(folder, row, stats, columns, notes)

    def missing(self, start: int, end: int) -> Sequence[int]:
        """Rows of the listing that have to be computed."""
        if not self.columns:
            return range(start, end)
        rows: list[int] = (start + np.flatnonzero(self.folder[start:end] < 0)).tolist()
        return rows

    def n_missing(self, end: int) -> int:
        """How many rows before ``end`` have to be computed."""
        return int(np.count_nonzero(self.folder[:end] < 0))

    def merged(self, computed: Columns, span: range) -> Iterator[Columns]:
        """Computed rows, which lie in a span of the listing, and the known ones there, in the order of the listing."""
        known = span.start + np.flatnonzero(self.folder[span.start : span.stop] >= 0)
        if not len(known):
            yield computed
            return
        new = computed["rows.i64"].view(np.int64)[:, 0] if computed else np.zeros(0, np.int64)
        rows = np.sort(np.concatenate([known, new]))
        for start in range(0, len(rows), _CHUNK):
            yield self._chunk(rows[start : start + _CHUNK], new, computed)

    def _chunk(self, rows: Int64[np.ndarray, "b"], new: Int64[np.ndarray, "m"], computed: Columns) -> Columns:
        sizes = {name: column.shape[1] for name, column in (computed or self.columns[0]).items()}
        sizes |= {"looks.i64": self.stats.itemsize * len(NO_STAT)}
        chunk = {name: np.zeros((len(rows), size), np.uint8) for name, size in sizes.items()}
        folder = self.folder[rows]
        for number, columns in enumerate(self.columns):
            own = folder == number
            for name in chunk.keys() & columns.keys():
                chunk[name][own] = columns[name][self.row[rows[own]]]
        fresh = folder < 0
        for name, column in computed.items():
            chunk[name][fresh] = column[np.searchsorted(new, rows[fresh])]
        chunk["rows.i64"] = rows[:, None].view(np.uint8)
        chunk["looks.i64"][~fresh] = self.stats[rows[~fresh]].view(np.uint8)
        return chunk

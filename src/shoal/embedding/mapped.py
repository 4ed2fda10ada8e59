"""Arrays and names that stay on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Int64, Shaped
from torch import Tensor


def mapped(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    """Map a file for reading; one that is too short is refused, and what is behind does not count."""
    if shape[0] == 0 or path.stat().st_size == 0:
        return np.zeros([max(side, 0) for side in shape], dtype)
    return np.memmap(path, dtype, "r", shape=None if shape == (-1,) else shape)


class Names(Sequence[str]):
    """Names that stay on the disk: all of a folder's, or those of some rows."""

    def __init__(self, folder: Path, rows: Int64[Tensor, "n"] | None = None) -> None:
        self._text = mapped(folder / "names.txt", np.uint8, (-1,))
        self._ends = mapped(folder / "names.i64", np.int64, (-1,))
        self._rows = rows

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = index % len(self) if self._rows is None else int(self._rows[index])
        start = int(self._ends[row - 1]) if row else 0
        return self._text[start : int(self._ends[row])].tobytes().decode("utf-8", "surrogateescape")

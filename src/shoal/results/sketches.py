"""Small pictures of many images, read from the disk when they are compared."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from shoal.clustering.inputs import tensor_on
from shoal.data.sketch import SKETCH
from shoal.mapped import release

FLAT = 1.0
"""Standard deviation, in grey levels, below which thumbnails show noise."""

_READ = 2**16


class Sketches:
    """Sketches of many images, which may be a memory map."""

    def __init__(self, records: Shaped[np.ndarray, "n"]) -> None:
        self._bytes = tensor_on(records.view(np.uint8).reshape(len(records), SKETCH.itemsize))

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, rows: Int64[Tensor, "b"]) -> Shaped[np.ndarray, "b"]:
        """Records of some images."""
        found: Shaped[np.ndarray, "b"] = self._bytes[rows].numpy().view(SKETCH)[:, 0]
        return found

    def known(self, rows: Int64[Tensor, "b"]) -> Bool[Tensor, "b"]:
        """Whether there is a sketch of some images."""
        found = torch.ones(len(rows), dtype=torch.bool)
        for start in range(0, len(rows), _READ):
            found[start : start + _READ] = torch.from_numpy(self[rows[start : start + _READ]]["width"] > 0)
            self.release()
        return found

    def luma(self, rows: Int64[Tensor, "b"]) -> Float[Tensor, "b s s"]:
        """Grey thumbnails."""
        return torch.from_numpy(self[rows]["luma"].astype(np.float32))

    def chroma(self, rows: Int64[Tensor, "b"]) -> Float[Tensor, "b 2 c c"]:
        """Colours, 0 for grey."""
        return torch.from_numpy(self[rows]["chroma"].astype(np.float32)) - 128

    def release(self) -> None:
        """Give back the pages of the map."""
        release(self._bytes)


class Thumbnails:
    """Centred grey thumbnails, of which the cosine is the correlation, as ``clustering.cells.Vectors``.

    A last, constant column makes thumbnails of one colour alike, whose noise has no meaning.
    """

    def __init__(self, sketches: Sketches) -> None:
        self._sketches = sketches
        self.release = sketches.release

    def __getitem__(self, rows: Int64[Tensor, "b"]) -> Float[Tensor, "b p"]:
        """Those of some images."""
        luma = self._sketches.luma(rows).flatten(1)
        constant = torch.full((len(luma), 1), FLAT * luma.shape[1] ** 0.5)
        return torch.cat([luma - luma.mean(1, keepdim=True), constant], 1).half()

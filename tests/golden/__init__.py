"""Inputs and outputs of the published implementations, computed once on a CPU in float32: facts to match."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def golden(name: str) -> dict[str, Tensor]:
    """Tensors of a golden file; floating ones in float32, but for schedules."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}

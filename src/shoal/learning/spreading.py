"""Labels spread over a neighbour graph."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

ALPHA = 0.95
TOLERANCE = 1e-4
"""Error of the spread values, as a share of the largest."""


def spread(
    similarities: sp.csr_array,
    sources: npt.NDArray[np.float32],
    *,
    alpha: float = ALPHA,
    tolerance: float = TOLERANCE,
) -> npt.NDArray[np.float32]:
    """F = (I − αS)⁻¹ Y: what arrives at each row from the sources, by all paths, an edge weighing α times S_ij.

    Zhou, Bousquet, Lal, Weston and Schölkopf, "Learning with Local and Global Consistency" (NeurIPS 2003), eq. 4. It
    minimises Σ_ij W_ij ‖F_i/√D_i − F_j/√D_j‖² + (1/α − 1) Σ_i ‖F_i − Y_i/(1 − α)‖² up to scale. I − αS has its
    eigenvalues in [1 − α, 1 + α], for which Chebyshev's iteration (Golub and Varga 1961) needs as many steps as
    conjugate gradients, known beforehand and the same for all columns.

    Args:
        similarities: S, symmetric, with eigenvalues in [−1, 1]: (n, n).
        sources: Y, not negative (n, c).
        alpha: in [0, 1).
        tolerance: of the error.

    Returns:
        F (n, c), not negative.
    """
    found = np.zeros_like(sources)
    residual = sources.copy()
    direction = sources.copy()
    # The error falls by this factor a step, from at most 1 / (1 − α).
    rate = alpha / (1 + math.sqrt(1 - alpha * alpha))
    steps = max(1, math.ceil(math.log(2 / (tolerance * (1 - alpha))) / -math.log(rate))) if alpha else 1
    size = 1.0
    for step in range(steps):
        if step:
            share = (alpha * size) ** 2 / (2 if step == 1 else 4)
            size = 1 / (1 - share / size)
            direction *= np.float32(share)
            direction += residual
        found += np.float32(size) * direction
        residual -= np.float32(size) * (direction - np.float32(alpha) * (similarities @ direction))
    return np.maximum(found, 0, out=found)

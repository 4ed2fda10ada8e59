"""Finds the part of one thumbnail that another one shows: a crop, and by the way a shift or a border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

START = 0.85
"""Share of each side in which the search begins; it reaches from 0.7 to 1."""

SMALLEST = 0.7
STEPS = 5
GLANCE = 2
HOPELESS = 0.3
"""1 − correlation after two steps from which a pair is given up."""

_LONGEST_STEP = 0.1
_DAMPING = 1e-3
_SOFT = 6  # weight of a pixel beside its neighbours: half of the photos' crops at 80 % are found by it
_LEAST_GAIN = 0.2  # contrast of the other thumbnail relative to this one's


@dataclass(frozen=True, eq=False)
class Windows:
    """A part of each of n images, in coordinates from −1 to 1: half its width and height, and its centre."""

    size: Float[Tensor, "n 2"]
    centre: Float[Tensor, "n 2"]

    def of(self, images: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
        """What the windows show, brought to the size of the whole image."""
        across, _ = _sampling(images.shape[2], self.size[:, 0], self.centre[:, 0])
        down, _ = _sampling(images.shape[1], self.size[:, 1], self.centre[:, 1])
        return down @ images @ across.mT


def register(whole: Float[Tensor, "n s s"], part: Float[Tensor, "n s s"]) -> tuple[Float[Tensor, "n"], Windows]:
    """Find the window of each whole image that looks most like the part, up to brightness and contrast.

    Pairs that still look different after two steps are given up.

    Returns:
        1 − correlation of the part and the window (n,), and the windows.
    """
    n = len(whole)
    first = Windows(torch.full((n, 2), START), torch.zeros(n, 2))
    best, found = _search(whole, part, first, GLANCE)
    hopeful = (best <= HOPELESS).nonzero()[:, 0]
    if len(hopeful):
        begun = Windows(found.size[hopeful], found.centre[hopeful])
        best[hopeful], further = _search(whole[hopeful], part[hopeful], begun, STEPS - GLANCE)
        found.size[hopeful], found.centre[hopeful] = further.size, further.centre
    return best, found


def _search(
    whole: Float[Tensor, "n s s"], part: Float[Tensor, "n s s"], start: Windows, steps: int
) -> tuple[Float[Tensor, "n"], Windows]:
    """Gauss–Newton on size, centre, gain and offset (Lucas and Kanade 1981; Baker and Matthews 2004, section 2)."""
    n, side = len(whole), whole.shape[-1]
    at = torch.linspace(-1 + 1 / side, 1 - 1 / side, side)
    target = _centred(_softened(part))
    size, centre = start.size, start.centre
    best, kept = torch.full((n,), torch.inf), Windows(size.clone(), centre.clone())
    for step in range(steps + 1):
        across, across_slope = _sampling(side, size[:, 0], centre[:, 0])
        down, down_slope = _sampling(side, size[:, 1], centre[:, 1])
        rows = down @ whole
        shown = _centred(rows @ across.mT)
        apart = 1 - torch.cosine_similarity(shown, target, dim=1, eps=1e-3)
        better = apart < best
        best = torch.where(better, apart, best)
        kept.size[better], kept.centre[better] = size[better], centre[better]
        if step == steps:
            break
        dx, dy = rows @ across_slope.mT, down_slope @ whole @ across.mT
        slopes = torch.stack([*map(_centred, (dx * at, dy * at[:, None], dx, dy)), shown], 2)
        squares = slopes.mT @ slopes
        squares += torch.diag_embed(_DAMPING * (squares.diagonal(dim1=1, dim2=2) + 1))
        solved = torch.linalg.solve(squares, slopes.mT @ target[:, :, None])[:, :, 0]
        move = (solved[:, :4] / solved[:, 4:].clamp(min=_LEAST_GAIN)).clamp(-_LONGEST_STEP, _LONGEST_STEP)
        size = (size + move[:, :2]).clamp(SMALLEST, 1)
        centre = torch.clamp(centre + move[:, 2:], size - 1, 1 - size)
    return best, kept


def _softened(images: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Images with as little detail as a window has that is brought to their size."""
    for axis in (1, 2):
        ends = images.narrow(axis, 0, 1), images.narrow(axis, images.shape[axis] - 1, 1)
        wide = torch.cat([ends[0], images, ends[1]], axis)
        n = images.shape[axis]
        images = (_SOFT * images + wide.narrow(axis, 0, n) + wide.narrow(axis, 2, n)) / (_SOFT + 2)
    return images


def _centred(images: Float[Tensor, "n h w"]) -> Float[Tensor, "n p"]:
    flat = images.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def _sampling(
    side: int, size: Float[Tensor, "n"], centre: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n s s"], Float[Tensor, "n s s"]]:
    """Weights of the pixels of a row for each pixel of its window, and their derivatives by position.

    Cubic convolution (Keys 1981), so that the derivatives are continuous.
    """
    at = torch.linspace(-1 + 1 / side, 1 - 1 / side, side)
    place = ((size[:, None] * at + centre[:, None] + 1) * (side / 2) - 0.5).clamp(0, side - 1)
    offset = place[:, :, None] - torch.arange(side)
    t = offset.abs()
    far = t >= 2
    near = t <= 1
    weights = torch.where(near, (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2).masked_fill(far, 0)
    slopes = torch.where(near, (4.5 * t - 5) * t, (5 - 1.5 * t) * t - 4).masked_fill(far, 0)
    total = weights.sum(2, keepdim=True)
    return weights / total, slopes * offset.sign() * (side / 2) / total

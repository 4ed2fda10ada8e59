"""Random views of a batch of images, drawn per image and computed for the whole batch at once.

Drawing and applying are apart: under several processes each draws for the whole world batch from the same state
of the generator and applies its own slice, so that the views do not depend on the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Generator, Tensor

from shoal.data import colour, geometry
from shoal.errors import UserError

Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]

_CHUNK = 2**18  # values worked on at a time on a CPU: what stays in its cache


@dataclass(frozen=True)
class ViewConfig:
    """How one random view of an image is made: SimCLR's recipe (2002.05709, appendix A), in this order.

    Affine map (off; for characters), crop, flip, colour jitter, grey, blur (off), solarise (off).
    """

    degrees: Annotated[float, Ge(0), Le(180)] = 0.0
    """Rotate by up to this many degrees either way."""
    translate: Share = 0.0
    """Shift by up to this share of the side, in whole pixels."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Scale by a factor between these two; what comes from outside the image is black."""
    shear: Annotated[float, Ge(0), Lt(90)] = 0.0
    """Slant sideways by up to this many degrees."""
    crop_scale: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] = (0.08, 1.0)
    """Share of the image's area that a crop covers; 1 1 does not crop."""
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width / height of a crop, before it is scaled back to the size of the image."""
    flip_p: Share = 0.5
    """Probability of mirroring left and right."""
    jitter_p: Share = 0.8
    """Probability of the colour jitter: the next four, in random order."""
    brightness: Annotated[float, Ge(0)] = 0.4
    """Multiply the brightness by a factor in 1 ± this."""
    contrast: Annotated[float, Ge(0)] = 0.4
    """Multiply the contrast by a factor in 1 ± this."""
    saturation: Annotated[float, Ge(0)] = 0.4
    """Multiply the saturation by a factor in 1 ± this."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Turn the hue by up to this share of the colour circle either way."""
    grey_p: Share = 0.2
    """Probability of taking the colour away."""
    blur_p: Share = 0.0
    """Probability of a Gaussian blur over a tenth of the side; meant for images of 96 pixels and more."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Standard deviation of the blur, in pixels."""
    solarise_p: Share = 0.0
    """Probability of turning the bright half of the values into its negative."""

    def __post_init__(self) -> None:
        for name in ("scale", "crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"{name} is a range from {low} to {high}: give the smaller number first.")


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers behind one view of ``n`` images; ``None`` where the operation is switched off.

    ``affine`` rows are (angle, right, down, scale, shear), ``crop`` rows (top, left, height, width), degrees and
    pixels; ``factors`` are those of brightness, contrast and saturation and the turn of the hue, ``order`` the order of
    these four, ``sigma`` the width of the blur. The rest says who gets an operation at all.
    """

    affine: Float[Tensor, "n 5"] | None = None
    crop: Float[Tensor, "n 4"] | None = None
    flip: Bool[Tensor, "n"] | None = None
    jitter: Bool[Tensor, "n"] | None = None
    factors: Float[Tensor, "n 4"] | None = None
    order: Int64[Tensor, "n 4"] | None = None
    grey: Bool[Tensor, "n"] | None = None
    blur: Bool[Tensor, "n"] | None = None
    sigma: Float[Tensor, "n"] | None = None
    solarise: Bool[Tensor, "n"] | None = None

    def __getitem__(self, rows: slice) -> Draw:
        """The draw of some of the images, such as one process's share of a batch."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> Draw:
        """The same draw on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Draw:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Draw(**{name: None if part is None else function(part) for name, part in parts.items()})


def draw_view(n: int, size: tuple[int, int], config: ViewConfig, generator: Generator) -> Draw:
    """Draw one view of each of ``n`` images of ``size`` (height, width), on the generator's device."""
    affine = (config.degrees, config.translate, config.scale, config.shear)
    strength = (config.brightness, config.contrast, config.saturation, config.hue)
    moved = affine != (0, 0, (1, 1), 0)
    cropped = config.crop_scale != (1, 1)
    jittered = config.jitter_p > 0 and any(strength)

    def chosen(p: float) -> Bool[Tensor, "n"] | None:
        return torch.rand(n, generator=generator, device=generator.device) < p if p else None

    return Draw(
        affine=geometry.draw_affine(n, size, *affine, generator) if moved else None,
        crop=geometry.draw_crop(n, size, config.crop_scale, config.crop_ratio, generator) if cropped else None,
        flip=chosen(config.flip_p),
        jitter=chosen(config.jitter_p) if jittered else None,
        factors=colour.draw_jitter(n, strength, generator) if jittered else None,
        order=colour.draw_order(n, generator) if jittered else None,
        grey=chosen(config.grey_p),
        blur=chosen(config.blur_p),
        sigma=colour.draw_sigma(n, config.blur_sigma, generator) if config.blur_p else None,
        solarise=chosen(config.solarise_p),
    )


def apply_view(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
    """Compute the view of each image that ``draw`` says, in [0, 1], on the images' device."""
    draw = draw.to(pixels.device)
    step = max(1, len(pixels) if pixels.is_cuda else _CHUNK // math.prod(pixels.shape[1:]))
    views = torch.empty(pixels.shape, device=pixels.device)
    planes = torch.empty(5, step, *pixels.shape[2:], device=pixels.device)
    for start in range(0, len(pixels), step):
        part = slice(start, start + step)
        views[part] = _apply(pixels[part], draw[part], planes)
    return views


def augment(
    pixels: UInt8[Tensor, "b 3 h w"], config: ViewConfig, generator: Generator
) -> Float[Tensor, "b 3 h w"]:
    """Draw and compute one view of each image, in [0, 1]."""
    height, width = pixels.shape[-2:]
    return apply_view(pixels, draw_view(len(pixels), (height, width), config, generator))


def _apply(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw, planes) -> Float[Tensor, "b 3 h w"]:
    views = pixels / 255
    if draw.affine is not None or draw.crop is not None or draw.flip is not None:
        views = geometry.resample(views, draw.affine, draw.crop, draw.flip)
    if draw.jitter is not None and draw.factors is not None and draw.order is not None:
        rows = draw.jitter.nonzero()[:, 0]
        views[rows] = colour.jitter(views[rows], draw.factors[rows], draw.order[rows], planes)
    if draw.grey is not None:
        rows = draw.grey.nonzero()[:, 0]
        views[rows] = colour.grey(views[rows])[:, None].expand(-1, 3, -1, -1)
    if draw.blur is not None and draw.sigma is not None:
        rows = draw.blur.nonzero()[:, 0]
        views[rows] = colour.blur(views[rows], draw.sigma[rows])
    if draw.solarise is not None:
        rows = draw.solarise.nonzero()[:, 0]
        views[rows] = colour.solarise(views[rows])
    return views

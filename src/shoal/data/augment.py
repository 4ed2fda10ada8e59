"""Random views of a batch of images, drawn per image and computed for the whole batch at once.

Drawing and applying are apart: under several processes each draws for the whole global batch from the same
state of the generator and applies its own slice, so that the views do not depend on the number of processes.
"""

from __future__ import annotations

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

_OF_ONE_VIEW = ("blur", "sigma", "solarise")
"""What one view may have and the other not: their probabilities are settings of each."""

_CHUNK = 2**20  # values worked on at a time on a CPU: few enough for its cache, enough to hide the cost of a call


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
    blur_p: tuple[Share, Share] = (0.0, 0.0)
    """Probability of a Gaussian blur over a tenth of the side, in view 1 and in view 2; meant for 96 px and more."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Standard deviation of the blur, in pixels."""
    solarise_p: tuple[Share, Share] = (0.0, 0.0)
    """Probability of turning the bright half of the values into its negative, in view 1 and in view 2."""

    def __post_init__(self) -> None:
        for name in ("scale", "crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"{name} is a range from {low} to {high}: give the smaller number first.")


@dataclass(frozen=True, eq=False)
class Draw:
    """What chance decided for one view of ``n`` images; ``None`` where an operation is switched off.

    ``affine`` rows are (angle, right, down, scale, shear), ``crop`` rows (top, left, height, width), in
    degrees and pixels. ``blends``, ``place`` and ``turn`` are the colour jitter as ``colour.as_blends``
    writes it, with ``place`` -1 where an image goes without. ``sigma`` is the blur's standard deviation.
    The rest says who gets an operation at all.
    """

    affine: Float[Tensor, "n 5"] | None = None
    crop: Float[Tensor, "n 4"] | None = None
    flip: Bool[Tensor, "n"] | None = None
    blends: Float[Tensor, "n 3 3"] | None = None
    place: Int64[Tensor, "n"] | None = None
    turn: Float[Tensor, "n"] | None = None
    grey: Bool[Tensor, "n"] | None = None
    blur: Bool[Tensor, "n"] | None = None
    sigma: Float[Tensor, "n"] | None = None
    solarise: Bool[Tensor, "n"] | None = None

    def __getitem__(self, rows: slice | Int64[Tensor, "m"]) -> Draw:
        """Take the draw of some of the images, such as one process's share of a batch."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> Draw:
        """Copy the draw to another device."""
        return self._each(lambda part: _sent(part, device))

    @staticmethod
    def of_two_views(first: Draw, second: Draw) -> Draw:
        """Two views of the same images as one draw, all of the first before all of the second.

        Raises:
            ValueError: one has an operation, other than blur and solarising, that the other goes without.
        """
        pairs = {field.name: (getattr(first, field.name), getattr(second, field.name)) for field in fields(Draw)}
        return Draw(**{name: _after_each_other(name, *pair) for name, pair in pairs.items()})

    def _each(self, function: Callable[[Tensor], Tensor]) -> Draw:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Draw(**{name: None if part is None else function(part) for name, part in parts.items()})


def draw_view(n: int, size: tuple[int, int], config: ViewConfig, generator: Generator, view: int = 0) -> Draw:
    """Draw one view of each of ``n`` images of ``size`` (height, width), on the generator's device.

    ``view`` is 0 or 1: BYOL's recipe blurs and solarises the two views with different probabilities.
    """
    moves = (config.degrees, config.translate, config.scale, config.shear)
    strength = (config.brightness, config.contrast, config.saturation, config.hue)

    def chosen(p: float) -> Bool[Tensor, "n"] | None:
        return torch.rand(n, generator=generator, device=generator.device) < p if p else None

    affine = crop = blends = place = turn = sigma = None
    flip = chosen(config.flip_p)
    if moves != (0, 0, (1, 1), 0):
        affine = geometry.draw_affine(n, size, *moves, generator)
    if config.crop_scale != (1, 1):
        crop = geometry.draw_crop(n, size, config.crop_scale, config.crop_ratio, generator)
    jittered = chosen(config.jitter_p if any(strength) else 0)
    if jittered is not None:
        factors = colour.draw_factors(n, strength, generator)
        blends, place = colour.as_blends(factors, colour.draw_order(n, generator))
        place[~jittered] = -1
        turn = factors[:, colour.HUE] if config.hue else None
    grey, blur, solarise = chosen(config.grey_p), chosen(config.blur_p[view]), chosen(config.solarise_p[view])
    if blur is not None:
        sigma = colour.draw_sigma(n, config.blur_sigma, generator)
    return Draw(affine, crop, flip, blends, place, turn, grey, blur, sigma, solarise)


def apply_view(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
    """Compute the view of each image that ``draw`` says, in [0, 1], on the images' device.

    The draw may lie on the host: a GPU then never has to be waited for to learn which images get what.
    """
    return _apply_in_chunks(pixels, draw, len(pixels))


def apply_two_views(
    pixels: UInt8[Tensor, "b 3 h w"], first: Draw, second: Draw
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
    """Compute two views in one pass: on small batches the calls take longer than what they compute."""
    view1, view2 = _apply_in_chunks(pixels, Draw.of_two_views(first, second), 2 * len(pixels)).chunk(2)
    return view1, view2


def _apply_in_chunks(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw, n: int) -> Float[Tensor, "n 3 h w"]:
    """The ``n`` views that the draw is of: of all images, once or several times over."""
    _, channels, height, width = pixels.shape
    # The jitter wants the images sorted; they go back to their places as they leave a chunk.
    order = torch.arange(n) if draw.place is None else draw.place.argsort()
    step = max(1, n if pixels.is_cuda else _CHUNK // (3 * height * width))
    scratch = torch.empty(colour.SCRATCH, min(n, step), height, width, device=pixels.device)
    views = torch.empty((n, channels, height, width), device=pixels.device)
    for rows in torch.split(order, step):
        there = _sent(rows, pixels.device)
        views[there] = _apply(pixels[there % len(pixels)], draw[rows], scratch)
    return views


def _apply(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw, scratch: Float[Tensor, "5 m h w"]) -> Float[Tensor, "b 3 h w"]:
    views = pixels.float().div_(255)
    there = draw.to(pixels.device)
    if draw.affine is not None or draw.crop is not None or draw.flip is not None:
        views = geometry.resample(views, there.affine, there.crop, there.flip)
    if draw.place is not None and there.blends is not None:
        colour.jitter(views, there.blends, draw.place, there.turn, scratch)
    if (rows := _chosen(draw.grey, pixels.device)) is not None:
        views[rows] = colour.grey(views[rows])
    if (rows := _chosen(draw.blur, pixels.device)) is not None and there.sigma is not None:
        views[rows] = colour.blur(views[rows], there.sigma[rows])
    if (rows := _chosen(draw.solarise, pixels.device)) is not None:
        views[rows] = colour.solarise(views[rows])
    return views


def _chosen(mask: Bool[Tensor, "b"] | None, device: torch.device) -> Int64[Tensor, "m"] | None:
    """The rows that get an operation; None if there are none."""
    if mask is None:
        return None
    rows = mask.nonzero()[:, 0]
    return _sent(rows, device) if len(rows) else None


def _after_each_other(name: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Zeros stand for what one view alone goes without: no image of it is chosen."""
    present = second if first is None else first
    if present is None:
        return None
    if (first is None or second is None) and name not in _OF_ONE_VIEW:
        raise ValueError(f"one view has {name} and the other has not.")
    return torch.cat([torch.zeros_like(present) if part is None else part for part in (first, second)])


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; from the host to a GPU they travel while both go on working."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)

"""Random views of a batch of images, with parameters drawn per image and computed for the whole batch at once.

Drawing is separate from applying: with several processes, each draws for the global batch from the same generator
state and applies its own slice, so that the views do not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Generator, Tensor

from shoal.data import colour, geometry
from shoal.data.augmentation import Augmentation, applied, drawn, named
from shoal.errors import UserError

Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]

_PER_VIEW = ("blur", "sigma", "solarise")
"""What one view may have and the other not: their probabilities are set per view."""

_CHUNK = 2**20  # values per step on a CPU: few enough for its cache, enough to hide the cost of a call


@dataclass(frozen=True)
class ViewConfig:
    """Augmentation of one view: SimCLR's recipe (2002.05709, appendix A), in this order.

    Affine map (off; for characters), crop, flip, colour jitter, grey, blur (off), solarise (off).
    """

    degrees: Annotated[float, Ge(0), Le(180)] = 0.0
    """Rotate by up to this many degrees in either direction."""
    translate: Share = 0.0
    """Shift by up to this fraction of the side, in whole pixels."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Scale by a factor in this range; pixels from outside the image are black."""
    shear: Annotated[float, Ge(0), Lt(90)] = 0.0
    """Shear horizontally by up to this many degrees."""
    crop_scale: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] = (0.08, 1.0)
    """Crop to a fraction of the image's area in this range; 1 1 does not crop."""
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Crop with an aspect ratio (width / height) in this range, then resize to the image's size."""
    flip_p: Share = 0.5
    """Flip horizontally with this probability."""
    jitter_p: Share = 0.8
    """Jitter colours (the next four, in random order) with this probability."""
    brightness: Annotated[float, Ge(0)] = 0.4
    """Multiply the brightness by a factor in 1 ± this."""
    contrast: Annotated[float, Ge(0)] = 0.4
    """Multiply the contrast by a factor in 1 ± this."""
    saturation: Annotated[float, Ge(0)] = 0.4
    """Multiply the saturation by a factor in 1 ± this."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Shift the hue by up to this fraction of the colour wheel in either direction."""
    grey_p: Share = 0.2
    """Convert to grey with this probability."""
    blur_p: tuple[Share, Share] = (0.0, 0.0)
    """Blur views 1 and 2 (Gaussian, kernel of a tenth of the side) with these probabilities; for 96 px and more."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Draw the blur's standard deviation from this range, in pixels."""
    solarise_p: tuple[Share, Share] = (0.0, 0.0)
    """Solarise (invert values of at least 0.5) views 1 and 2 with these probabilities."""
    own: tuple[str, ...] = ()
    """Augmentations of plugins to apply at last, such as erase, or erase:p=0.5,side=4 with settings."""
    views: Annotated[int, Ge(2)] = 2
    """Views of each image; all methods but EMP take two."""
    side: Annotated[int, Gt(0)] | None = None
    """Height and width of a view in pixels, to which crops are resized; None for the image's own."""
    neighbours: Annotated[int, Ge(0)] = 0
    """k: now and then all views but the first are of one of the image's k nearest neighbours by pixels; 0 for never.
    For images whose pixels can be compared, such as characters."""
    neighbour_p: Share = 0.2
    """How often a neighbour takes the image's place."""

    def __post_init__(self) -> None:
        for name in ("scale", "crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"{name} is a range from {low} to {high}: give the smaller number first.")


@dataclass(frozen=True, eq=False)
class Draw:
    """Random parameters of one view of ``n`` images; ``None`` for operations that are off.

    ``affine`` rows are (angle, right, down, scale, shear), ``crop`` rows (top, left, height, width), in
    degrees and pixels. ``blends``, ``place`` and ``turn`` are the colour jitter as ``colour.as_blends``
    returns it, with ``place`` -1 for images without jitter. ``sigma`` is the blur's standard deviation.
    The masks select the images that get an operation. ``own`` has augmentations of plugins with what they drew.
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
    own: tuple[tuple[Augmentation, Float[Tensor, "n ..."]], ...] = ()

    def __getitem__(self, rows: slice | Int64[Tensor, "m"]) -> Draw:
        """Select the draw of some images, such as one process's share of a batch."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> Draw:
        """Copy the draw to another device."""
        return self._each(lambda part: _to_device(part, device))

    @staticmethod
    def of_views(draws: Sequence[Draw]) -> Draw:
        """Concatenate the draws of several views of the same images.

        Raises:
            ValueError: only some have an operation other than blur and solarising.
        """
        own = [
            (parts[0][0], torch.cat([drawn for _, drawn in parts]))
            for parts in zip(*(each.own for each in draws), strict=True)
        ]
        parts = {name: _concatenate(name, [getattr(each, name) for each in draws]) for name in _OPERATIONS}
        return Draw(**parts, own=tuple(own))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Draw:
        parts = {name: getattr(self, name) for name in _OPERATIONS}
        own = tuple((each, function(drawn)) for each, drawn in self.own)
        return Draw(**{name: None if part is None else function(part) for name, part in parts.items()}, own=own)


_OPERATIONS = tuple(field.name for field in fields(Draw) if field.name != "own")


def draw_view(n: int, size: tuple[int, int], config: ViewConfig, generator: Generator, view: int = 0) -> Draw:
    """Draw one view of each of ``n`` images of ``size`` (height, width), on the generator's device.

    ``view`` counts from 0: in BYOL's recipe, blur and solarising have other probabilities for each of two views, which
    further views take in turn.
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
    grey, blur, solarise = chosen(config.grey_p), chosen(config.blur_p[view % 2]), chosen(config.solarise_p[view % 2])
    if blur is not None:
        sigma = colour.draw_sigma(n, config.blur_sigma, generator)
    seen = size if config.side is None else (config.side, config.side)
    own = tuple((each, drawn(each, n, seen, generator, view)) for each in map(named, config.own))
    return Draw(affine, crop, flip, blends, place, turn, grey, blur, sigma, solarise, own)


def apply_view(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
    """Compute the views that ``draw`` describes, in [0, 1], on the images' device.

    Keep the draw on the CPU: then selecting images needs no synchronisation with the GPU.
    """
    return apply_views(pixels, [draw])[0]


def apply_views(
    pixels: UInt8[Tensor, "b 3 h w"], draws: Sequence[Draw], side: int | None = None
) -> tuple[Float[Tensor, "b 3 s t"], ...]:
    """Compute several views of each image in one pass, which saves call overhead on small batches.

    Args:
        pixels: the images.
        draws: of each view, as for ``apply_view``.
        side: height and width of a view in pixels; None for the images'.
    """
    n = len(draws) * len(pixels)
    size = (pixels.shape[2], pixels.shape[3]) if side is None else (side, side)
    return _apply_in_chunks(pixels, Draw.of_views(draws), n, size).chunk(len(draws))


def _apply_in_chunks(
    pixels: UInt8[Tensor, "b 3 h w"], draw: Draw, n: int, size: tuple[int, int]
) -> Float[Tensor, "n 3 s t"]:
    """Compute the ``n`` views of the draw, where ``n`` is a multiple of the number of images."""
    channels, largest = pixels.shape[1], max(size[0] * size[1], pixels.shape[2] * pixels.shape[3])
    # The jitter needs sorted images; each chunk writes its views back in the original order.
    order = torch.arange(n) if draw.place is None else draw.place.argsort()
    step = max(1, n if pixels.is_cuda else _CHUNK // (3 * largest))
    scratch = torch.empty(colour.SCRATCH, min(n, step), *size, device=pixels.device)
    views = torch.empty((n, channels, *size), device=pixels.device)
    for rows in torch.split(order, step):
        there = _to_device(rows, pixels.device)
        views[there] = _apply(pixels[there % len(pixels)], draw[rows], scratch)
    return views


def _apply(pixels: UInt8[Tensor, "b 3 h w"], draw: Draw, scratch: Float[Tensor, "5 m s t"]) -> Float[Tensor, "b 3 s t"]:
    views = pixels.float().div_(255)
    there = draw.to(pixels.device)
    size = (scratch.shape[2], scratch.shape[3])
    resized = size != pixels.shape[2:]
    if resized or draw.affine is not None or draw.crop is not None or draw.flip is not None:
        views = geometry.resample(views, there.affine, there.crop, there.flip, size)
    if draw.place is not None and there.blends is not None:
        colour.jitter(views, there.blends, draw.place, there.turn, scratch)
    if (rows := _selected_rows(draw.grey, pixels.device)) is not None:
        views[rows] = colour.grey(views[rows])
    if (rows := _selected_rows(draw.blur, pixels.device)) is not None and there.sigma is not None:
        views[rows] = colour.blur(views[rows], there.sigma[rows])
    if (rows := _selected_rows(draw.solarise, pixels.device)) is not None:
        views[rows] = colour.solarise(views[rows])
    for each, values in there.own:
        views = applied(each, views, values)
    return views


def _selected_rows(mask: Bool[Tensor, "b"] | None, device: torch.device) -> Int64[Tensor, "m"] | None:
    """Return the rows that get an operation; None if there are none."""
    if mask is None:
        return None
    rows = mask.nonzero()[:, 0]
    return _to_device(rows, device) if len(rows) else None


def _concatenate(name: str, parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate; a missing part becomes zeros, which select no image."""
    present = next((part for part in parts if part is not None), None)
    if present is None:
        return None
    if any(part is None for part in parts) and name not in _PER_VIEW:
        raise ValueError(f"only some of the views have {name}: draw all with the same config.")
    return torch.cat([torch.zeros_like(present) if part is None else part for part in parts])


def _to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy values to a device, asynchronously from the CPU to a GPU."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)

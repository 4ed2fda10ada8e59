"""Affine map, crop and flip of a batch of images in one bilinear resampling, with parameters per image."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

_TRIES = 10  # as in torchvision's RandomResizedCrop


def draw_crop(
    n: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> Float[Tensor, "n 4"]:
    """Draw boxes (top, left, height, width) in whole pixels for ``n`` images of ``size`` (height, width).

    The area of a box, as a fraction of the image, is uniform within ``scale``; its aspect ratio (width / height) is
    log-uniform within ``ratio``. If none of ten draws fits, the box is the largest central one with the nearest allowed
    aspect ratio, as in torchvision's ``RandomResizedCrop`` (1409.4842, section 6).
    """
    height, width = size
    area = height * width * _uniform((n, _TRIES), scale, generator)
    aspect = _uniform((n, _TRIES), (math.log(ratio[0]), math.log(ratio[1])), generator).exp_()
    tall, wide = (area / aspect).sqrt_().round_(), (area * aspect).sqrt_().round_()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.byte().argmax(1, keepdim=True)
    box = torch.stack([tall, wide], -1).gather(1, first[:, :, None].expand(n, 1, 2))[:, 0]
    room = torch.tensor([height, width], device=box.device) - box
    corner = ((room + 1) * torch.rand(n, 2, generator=generator, device=box.device)).floor_().minimum(room)
    fallback = torch.tensor(_central(size, ratio), device=box.device)
    return torch.where(fits.any(1, keepdim=True), torch.cat([corner, box], 1), fallback)


def _central(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[float, float, float, float]:
    """Return the largest central box with an allowed aspect ratio."""
    height, width = size
    tall = min(height, round(width / ratio[0]))
    wide = min(width, round(height * ratio[1]))
    return float((height - tall) // 2), float((width - wide) // 2), float(tall), float(wide)


def draw_affine(
    n: int,
    size: tuple[int, int],
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
    generator: Generator,
) -> Float[Tensor, "n 5"]:
    """Draw rows (angle, right, down, scale, shear) for ``n`` images, as torchvision's ``RandomAffine`` does.

    Angles and shears (along x) are in degrees, shifts in whole pixels, up to the fraction ``translate`` of the side;
    ``size`` is (height, width).
    """
    reach = [degrees, translate * size[1], translate * size[0], 0.0, shear]
    drawn = _uniform((n, 5), (-1.0, 1.0), generator) * torch.tensor(reach, device=generator.device)
    drawn[:, 1:3].round_()
    drawn[:, 3] = _uniform((n,), scale, generator)
    return drawn


def resample(
    images: Float[Tensor, "b 3 h w"],
    affine: Float[Tensor, "b 5"] | None,
    crop: Float[Tensor, "b 4"] | None,
    flip: Bool[Tensor, "b"] | None,
    size: tuple[int, int],
) -> Float[Tensor, "b 3 s t"]:
    """Apply each image's affine map, crop its box, resize that to ``size`` (height, width) and flip it, in this order.

    ``None`` skips a step. All steps are one bilinear look-up: an output pixel is mapped back through the box and then
    through the affine map. Pixels from outside the image are black.
    """
    height, width = images.shape[-2:]
    if crop is None and size != (height, width):
        crop = images.new_tensor([0, 0, height, width]).expand(len(images), 4)
    top, left, tall, wide = (None,) * 4 if crop is None else crop.unbind(1)
    y = _places(images, size[0], height, top, tall, None)[:, :, None]
    x = _places(images, size[1], width, left, wide, flip)[:, None, :]
    if affine is not None:
        x, y = _invert_affine(affine[:, :, None, None], x, y)
    shape = (len(images), *size)
    grid = torch.stack([(x * (2 / width)).expand(shape), (y * (2 / height)).expand(shape)], -1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _places(
    images: Float[Tensor, "b 3 h w"],
    side: int,
    of: int,
    start: Float[Tensor, "b"] | None,
    length: Float[Tensor, "b"] | None,
    mirrored: Bool[Tensor, "b"] | None,
) -> Float[Tensor, "b side"]:
    """Return the positions of ``side`` output pixels along one axis of ``of`` pixels, in pixels from its centre."""
    pixel = torch.arange(side, device=images.device, dtype=images.dtype).expand(len(images), side)
    if mirrored is not None:
        pixel = torch.where(mirrored[:, None], side - 1 - pixel, pixel)
    if start is not None and length is not None:
        # Clamped to the box's first and last pixel: nothing outside the box may bleed in.
        inside = ((pixel + 0.5) * (length[:, None] / side) - 0.5).clamp_(min=0).minimum(length[:, None] - 1)
        pixel = start[:, None] + inside
    return pixel - (of - 1) / 2


def _invert_affine(
    affine: Float[Tensor, "b 5 1 1"], x: Float[Tensor, "b 1 w"], y: Float[Tensor, "b h 1"]
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Apply the inverse of x -> scale * rotation * shear * x + shift."""
    angle, right, down, scale, shear = affine.unbind(1)
    x, y = (x - right) / scale, (y - down) / scale
    angle, slope = angle.deg2rad(), shear.deg2rad().tan()
    cos, sin = angle.cos(), angle.sin()
    return x * (cos - slope * sin) + y * (sin + slope * cos), y * cos - x * sin


def _uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: Generator) -> Float[Tensor, "..."]:
    return torch.empty(shape, device=generator.device).uniform_(*bounds, generator=generator)

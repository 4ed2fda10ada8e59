"""Colour augmentations with parameters per image: jitter, grey, blur and solarise."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SCRATCH = 5  # planes (one value per pixel) that the jitter needs as scratch memory


def draw_factors(n: int, strength: tuple[float, float, float, float], generator: Generator) -> Float[Tensor, "n 4"]:
    """Draw factors of brightness, contrast and saturation, and the shift of the hue, as ``ColorJitter`` does.

    Factors are uniform in 1 ± strength, but at least 0. The hue shifts by up to its strength in either direction, as a
    fraction of the colour wheel.
    """
    low = torch.tensor([max(0.0, 1 - s) for s in strength[:HUE]] + [-strength[HUE]], device=generator.device)
    high = torch.tensor([1 + s for s in strength[:HUE]] + [strength[HUE]], device=generator.device)
    return low + (high - low) * torch.rand(n, 4, generator=generator, device=generator.device)


def draw_order(n: int, generator: Generator) -> Int64[Tensor, "n 4"]:
    """Draw a random order of the four operations of the jitter for each of ``n`` images."""
    return torch.rand(n, 4, generator=generator, device=generator.device).argsort(1)


def draw_sigma(n: int, bounds: tuple[float, float], generator: Generator) -> Float[Tensor, "n"]:
    """Draw the blur's standard deviation for each of ``n`` images, uniform within ``bounds``, in pixels."""
    return torch.empty(n, device=generator.device).uniform_(*bounds, generator=generator)


def as_blends(
    factors: Float[Tensor, "n 4"], order: Int64[Tensor, "n 4"]
) -> tuple[Float[Tensor, "n 3 3"], Int64[Tensor, "n"]]:
    """Express each image's jitter as three blends and one hue shift among them.

    Brightness, contrast and saturation each blend the image with black, its mean grey and its grey.
    Returns the weights (image, mean grey, grey) of the three blends in the image's own order, and the number of blends
    before the hue shift.
    """
    others = order[order != HUE].view(-1, 3)
    share = factors.gather(1, others)
    of_mean = torch.where(others == CONTRAST, 1 - share, 0)
    of_grey = torch.where(others == SATURATION, 1 - share, 0)
    return torch.stack([share, of_mean, of_grey], -1), (order == HUE).byte().argmax(1)


def jitter(
    images: Float[Tensor, "b 3 h w"],
    blends: Float[Tensor, "b 3 3"],
    place: Int64[Tensor, "b"],
    turn: Float[Tensor, "b"] | None,
    scratch: Float[Tensor, "5 m h w"],
) -> None:
    """In place, torchvision's ``ColorJitter``: each image's operations in its own order, clamped after each.

    The images must be sorted by ``place``, the number of blends before the hue (-1: no jitter). Those that
    share a step are then a slice, and one call does it whichever of the three blends it is. ``place`` is read
    on the host; without a ``turn`` the hue is unchanged.
    """
    steps = torch.arange(4, device=place.device)
    first, *ends = (place[:, None] < steps).sum(0).tolist()
    for k, end in enumerate(ends):
        _blend(images[end:], blends[end:, k], scratch)
    if turn is not None:
        _turn_hue(images[first:], turn[first:], scratch)
    for k, end in enumerate(ends):
        _blend(images[first:end], blends[first:end, k], scratch)


def grey(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert to grey (ITU-R 601-2 luma) in three channels."""
    return _luma(images, torch.empty_like(images[:, 0]))[:, None].expand_as(images)


def blur(images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b 3 h w"]:
    """Blur each image with a Gaussian of its own ``sigma`` in pixels, mirrored at the border.

    The kernel spans a tenth of the shorter side, rounded to an odd number of pixels, at least three
    (SimCLR, 2002.05709, appendix A).
    """
    b, _, height, width = images.shape
    reach = max(1, min(height, width) // 20)
    distance = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (distance / sigma[:, None]) ** 2, 1).repeat_interleave(3, 0)
    padded = pad(images.reshape(1, 3 * b, height, width), [reach] * 4, mode="reflect")
    blurred = conv2d(padded, kernel[:, None, :, None], groups=3 * b)
    return conv2d(blurred, kernel[:, None, None, :], groups=3 * b).view_as(images)


def solarise(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Invert values of at least 0.5."""
    return torch.where(images >= 0.5, 1 - images, images)


def _luma(images: Float[Tensor, "b 3 h w"], out: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    red, green, blue = images.unbind(1)
    return torch.mul(red, 0.2989, out=out).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _blend(images: Float[Tensor, "b 3 h w"], shares: Float[Tensor, "b 3"], scratch: Float[Tensor, "5 m h w"]) -> None:
    """In place: the weighted sum of the image, its mean grey and its grey, clamped to [0, 1]."""
    if not len(images):
        return
    of_image, of_mean, of_grey = shares[:, :, None, None].unbind(1)
    luma = _luma(images, scratch[0, : len(images)])
    mean = luma.mean((1, 2), keepdim=True)
    rest = luma.mul_(of_grey).add_(mean.mul_(of_mean))
    torch.addcmul(rest[:, None], images, of_image[:, None], out=images).clamp_(0, 1)


def _turn_hue(images: Float[Tensor, "b 3 h w"], turn: Float[Tensor, "b"], scratch: Float[Tensor, "5 m h w"]) -> None:
    """In place: shift the hue by a fraction of the colour wheel at constant value and saturation.

    With the hue in sixths of the circle, a channel is
    smallest + (largest - smallest) * clamp(2 - distance of the hue to the channel's own, 0, 1).
    """
    if not len(images):
        return
    red, green, blue = images.unbind(1)
    s0, s1, s2, s3, s4 = scratch[:, : len(images)]
    largest = torch.maximum(torch.maximum(red, green, out=s0), blue, out=s0)
    smallest = torch.minimum(torch.minimum(red, green, out=s1), blue, out=s1)
    chroma = torch.sub(largest, smallest, out=s2)
    from_green = torch.sub(blue, red, out=s3).add_(chroma, alpha=2)
    from_blue = torch.sub(red, green, out=s4).add_(chroma, alpha=4)
    hue = torch.where(largest == green, from_green, from_blue, out=s4)
    hue = torch.where(largest == red, torch.sub(green, blue, out=s3), hue, out=s4)
    hue /= torch.clamp(chroma, min=1e-8, out=s3)  # a grey pixel has no hue: any value works
    hue += 6 * turn[:, None, None]
    hue.sub_(torch.div(hue, 6, out=s3).floor_(), alpha=6)
    # Red is at both ends of the wheel: its distance is 3 minus the distance to the middle.
    torch.addcmul(smallest, chroma, torch.sub(hue, 3, out=s3).abs_().sub_(1).clamp_(0, 1), out=red)
    for channel, own in ((green, 2), (blue, 4)):
        torch.addcmul(smallest, chroma, torch.sub(hue, own, out=s3).abs_().neg_().add_(2).clamp_(0, 1), out=channel)

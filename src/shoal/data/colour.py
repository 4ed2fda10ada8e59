"""Changes of colour, each image with its own parameters: jitter, grey, blur and solarise."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def draw_jitter(
    n: int, strength: tuple[float, float, float, float], generator: Generator
) -> Float[Tensor, "n 4"]:
    """Factors of brightness, contrast and saturation, uniform in 1 ± strength (at least 0), and the turn of the hue.

    The hue turns by ± its strength, in parts of the circle, as in torchvision's ``ColorJitter``.
    """
    low = torch.tensor([max(0.0, 1 - s) for s in strength[:HUE]] + [-strength[HUE]], device=generator.device)
    high = torch.tensor([1 + s for s in strength[:HUE]] + [strength[HUE]], device=generator.device)
    return low + (high - low) * torch.rand(n, 4, generator=generator, device=generator.device)


def draw_order(n: int, generator: Generator) -> Int64[Tensor, "n 4"]:
    """For each of ``n`` images the four operations of the jitter in random order."""
    return torch.rand(n, 4, generator=generator, device=generator.device).argsort(1)


def draw_sigma(n: int, bounds: tuple[float, float], generator: Generator) -> Float[Tensor, "n"]:
    """Standard deviations of the blur of ``n`` images, uniform within ``bounds``."""
    return torch.empty(n, device=generator.device).uniform_(*bounds, generator=generator)


def jitter(
    images: Float[Tensor, "b 3 h w"], factors: Float[Tensor, "b 4"], order: Int64[Tensor, "b 4"], planes
) -> Float[Tensor, "b 3 h w"]:
    """torchvision's ``ColorJitter``: the four operations, in each image's own order, clamped after each.

    Three of the four are one formula (``_blend``), so that images in different orders can share a call. Only the
    hue stands apart: with the images sorted by its place in their order, those that meet an operation before
    (after) the hue are always the first (last) ones, a slice.
    """
    place = (order == HUE).byte().argmax(1)
    rows = place.argsort(descending=True)
    ends = (place[:, None] > torch.arange(3, device=place.device)).sum(0).tolist()
    others = order[order != HUE].view(-1, 3)[rows]
    factor = factors[rows].gather(1, others)
    of_grey = torch.where(others == SATURATION, 1 - factor, 0)
    of_mean = torch.where(others == CONTRAST, 1 - factor, 0)
    images = images[rows]
    for k, end in enumerate(ends):
        _blend(images[:end], factor[:end, k], of_grey[:end, k], of_mean[:end, k], planes)
    turn = factors[rows, HUE]
    if turn.any():
        _turn_hue(images, turn, planes)
    for k, end in enumerate(ends):
        _blend(images[end:], factor[end:, k], of_grey[end:, k], of_mean[end:, k], planes)
    return torch.empty_like(images).index_copy_(0, rows, images)


def grey(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """Brightness as the eye weighs it (ITU-R 601-2 luma, torchvision's four digits of it)."""
    red, green, blue = images.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def blur(images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b 3 h w"]:
    """Blur each image with a Gaussian of its own ``sigma`` in pixels, mirrored at the border.

    The kernel spans a tenth of the shorter side, rounded to an odd number of pixels, at least three
    (SimCLR, 2002.05709, appendix A).
    """
    b, _, height, width = images.shape
    reach = max(3, min(height, width) // 10 | 1) // 2
    distance = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (distance / sigma[:, None]) ** 2, 1).repeat_interleave(3, 0)
    padded = F.pad(images.reshape(1, 3 * b, height, width), [reach] * 4, mode="reflect")
    blurred = F.conv2d(padded, kernel[:, None, :, None], groups=3 * b)
    return F.conv2d(blurred, kernel[:, None, None, :], groups=3 * b).view_as(images)


def solarise(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Turn every value from a half upwards into its negative."""
    return torch.where(images >= 0.5, 1 - images, images)


def _blend(
    images: Float[Tensor, "b 3 h w"],
    factor: Float[Tensor, "b"],
    of_grey: Float[Tensor, "b"],
    of_mean: Float[Tensor, "b"],
    planes,
) -> None:
    """In place: factor * image + of_grey * its grey + of_mean * its mean grey, clamped to [0, 1].

    The rest, 1 - factor, goes to ``of_grey`` for the saturation, to ``of_mean`` for the contrast, and to black for
    the brightness.
    """
    red, green, blue = images.unbind(1)
    luma = torch.mul(red, 0.2989, out=planes[0,:len(images)]).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    mean = luma.mean((1, 2), keepdim=True).mul_(of_mean[:, None, None])
    rest = luma.mul_(of_grey[:, None, None]).add_(mean)
    torch.addcmul(rest[:, None], images, factor[:, None, None, None], out=images).clamp_(0, 1)


def _turn_hue(images, turn, planes) -> None:
    """In place: turn the hue by a share of the circle, leaving value and saturation as they are.

    With the hue in sixths of the circle and both the largest and the smallest channel kept, a channel is
    smallest + (largest - smallest) * clamp(2 - distance of the hue to the channel's own, 0, 1).
    """
    red, green, blue = images.unbind(1)
    a, b, c, d, e = planes[:, : len(images)]
    largest = torch.maximum(torch.maximum(red, green, out=a), blue, out=a)
    smallest = torch.minimum(torch.minimum(red, green, out=b), blue, out=b)
    chroma = torch.sub(largest, smallest, out=c)
    from_green = torch.sub(blue, red, out=d).add_(chroma, alpha=2)
    from_blue = torch.sub(red, green, out=e).add_(chroma, alpha=4)
    sixths = torch.where(largest == green, from_green, from_blue, out=e)
    sixths = torch.where(largest == red, torch.sub(green, blue, out=d), sixths, out=e)
    sixths /= torch.clamp(chroma, min=1e-8, out=a)  # a grey pixel has no hue: any will do
    sixths += 6 * turn[:, None, None]
    sixths.sub_(torch.div(sixths, 6, out=a).floor_(), alpha=6)
    # Red lies at both ends of the circle: its distance is 3 less the distance to the middle.
    torch.addcmul(smallest, chroma, torch.sub(sixths, 3, out=a).abs_().sub_(1).clamp_(0, 1), out=red)
    torch.addcmul(smallest, chroma, torch.sub(sixths, 2, out=a).abs_().neg_().add_(2).clamp_(0, 1), out=green)
    torch.addcmul(smallest, chroma, torch.sub(sixths, 4, out=a).abs_().neg_().add_(2).clamp_(0, 1), out=blue)

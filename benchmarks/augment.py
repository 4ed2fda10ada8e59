"""Two SimCLR views per image, in images per second: shoal, torchvision on PIL, and kornia if it is installed.

All sides make the same views on the same threads; their runs alternate and the medians are compared, because
the machine's speed drifts. Call it as ``python benchmarks/augment.py --side 224 --batch 64 --threads 2``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision import transforms  # type: ignore[import-untyped,unused-ignore]

from interleaved import seconds_of
from shoal.data import ViewConfig, apply_views, draw_view

Views = Callable[[Tensor], object]


def shoal_views(side: int, blur_p: float, device: str = "cpu") -> Views:
    """Draw and apply with shoal, whole batches, drawn on the device as in training."""
    config = ViewConfig(blur_p=(blur_p, blur_p))
    generator = torch.Generator(device).manual_seed(0)

    def views(pixels: Tensor) -> object:
        draws = [draw_view(len(pixels), (side, side), config, generator, view) for view in (0, 1)]
        return apply_views(pixels, draws)

    return views


def torchvision_views(side: int, blur_p: float) -> Views:
    """Compose the transforms that most training scripts use, image by image."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    steps = [
        transforms.RandomResizedCrop(side),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([jitter], 0.8),
        transforms.RandomGrayscale(0.2),
    ]
    if blur_p:
        steps.append(transforms.RandomApply([transforms.GaussianBlur(side // 10 | 1)], blur_p))
    view = transforms.Compose([*steps, transforms.ToTensor()])
    to_pil = transforms.ToPILImage()

    def views(pixels: Tensor) -> object:
        images = [to_pil(image) for image in pixels]
        return [torch.stack([view(image) for image in images]) for _ in range(2)]

    return views


def kornia_views(side: int, blur_p: float) -> Views:
    """Chain kornia's modules, whole batches."""
    from kornia import augmentation  # type: ignore[import-not-found,unused-ignore]

    steps = [
        augmentation.RandomResizedCrop((side, side), scale=(0.08, 1.0)),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
    ]
    if blur_p:
        kernel = side // 10 | 1
        steps.append(augmentation.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur_p))
    view = torch.nn.Sequential(*steps)
    return lambda pixels: [view(pixels / 255) for _ in range(2)]


def main() -> None:
    """Time all sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--blur", type=float, default=0.0, help="probability of the blur")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pixels = torch.randint(0, 256, (args.batch, 3, args.side, args.side), dtype=torch.uint8)
    sides = {"shoal": shoal_views, "torchvision v1, PIL": torchvision_views}
    if find_spec("kornia"):
        sides["kornia"] = kornia_views
    makers = {name: make(args.side, args.blur) for name, make in sides.items()}
    medians = seconds_of({name: partial(views, pixels) for name, views in makers.items()}, args.repeats)
    print(f"{args.batch} images of {args.side} x {args.side}, {args.threads} threads, {args.repeats} repeats")
    for name, median in medians.items():
        rate, ratio = args.batch / median, median / medians["shoal"]
        print(f"{name:22}{rate:10.0f} images/s   shoal is {ratio:6.2f} x as fast")


if __name__ == "__main__":
    main()

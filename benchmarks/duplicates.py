"""How alike a photo and its changed copy are to a frozen network, and how alike two different photos.

    python benchmarks/duplicates.py FOLDER WEIGHTS

FOLDER holds photos in subfolders; WEIGHTS is a state dict whose tensors stand in the order of timm's
tf_efficientnet_lite0.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

N_COPIED, N_OTHERS = 200, 2000
THRESHOLDS = (0.9, 0.93, 0.95, 0.97, 0.98, 0.99)


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    """As JPEG of some quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The middle, so much of each side."""
    edge = round(image.width * share)
    at = (image.width - edge) // 2
    return image.crop((at, at, at + edge, at + edge))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 75": lambda image: recompressed(image, 75),
    "JPEG 40": lambda image: recompressed(image, 40),
    "three quarters the size": lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
    "half the size": lambda image: image.resize((32, 32), Image.Resampling.LANCZOS),
    "flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter by a tenth": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "95 % of each side": lambda image: cropped(image, 0.95),
    "90 % of each side": lambda image: cropped(image, 0.9),
    "80 % of each side": lambda image: cropped(image, 0.8),
}


def embedded(model: torch.nn.Module, images: list[Image.Image]) -> Tensor:
    """Features at unit length (n, d)."""
    rows = []
    for start in range(0, len(images), 32):
        squares = [image.resize((224, 224), Image.Resampling.BICUBIC) for image in images[start : start + 32]]
        pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2)
        with torch.inference_mode():
            rows.append(model((pixels.float() / 255 - 0.5) / 0.5))
    return torch.nn.functional.normalize(torch.cat(rows))


def main() -> None:
    """Print a row for each change, and one for different photos."""
    files = sorted(Path(sys.argv[1]).rglob("*.JPEG")) + sorted(Path(sys.argv[1]).rglob("*.jpg"))
    files = files[:: max(1, len(files) // N_OTHERS)][:N_OTHERS]
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    values = torch.load(sys.argv[2], weights_only=True, map_location="cpu").values()
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=False)))
    images = [Image.open(file).convert("RGB") for file in files]
    features = embedded(model, images)
    print(f"{'share at least as alike as':<28}" + "".join(f"{t:>7}" for t in THRESHOLDS) + "   median")
    for name, change in CHANGES.items():
        copies = embedded(model, [change(image) for image in images[:: len(images) // N_COPIED][:N_COPIED]])
        row(name, (copies * features[:: len(images) // N_COPIED][:N_COPIED]).sum(1))
    others = features @ features.T
    others.fill_diagonal_(-1)
    row("nearest different photo", others.amax(1))
    pairs = torch.nonzero(others.triu(1) >= THRESHOLDS[0])
    for i, j in sorted(pairs.tolist(), key=lambda pair: -float(others[pair[0], pair[1]]))[:40]:
        print(f"{float(others[i, j]):.4f}  {files[i].name}  {files[j].name}")


def row(name: str, similarity: Tensor) -> None:
    """Print what share reaches each threshold."""
    shares = "".join(f"{float((similarity >= t).float().mean()):7.3f}" for t in THRESHOLDS)
    print(f"{name:<28}{shares}  {float(similarity.median()):7.3f}", flush=True)


if __name__ == "__main__":
    main()

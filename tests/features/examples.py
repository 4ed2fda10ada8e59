"""Small networks with weights in a file, and sources that need no disk."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from shoal.data.listing import Listing, Source
from shoal.features import EncoderSpec


def write_weights(path: Path, name: str, *, prefix: str = "", change=lambda _tensors: None, **settings) -> EncoderSpec:
    """Random weights of a timm model as a checkpoint; batch-norms have statistics that matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, **settings)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    tensors = {prefix + key: value.clone().contiguous() for key, value in network.state_dict().items()}
    change(tensors)
    save_file(tensors, path)
    return EncoderSpec("timm", name, str(path))


def encoded(pixels: np.ndarray, form: str = "PNG", **settings) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, form, **settings)
    return file.getvalue()


def pictures(n: int, side: int = 16) -> list[bytes]:
    """Image files of noise."""
    rng = np.random.default_rng(0)
    return [encoded(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


def source_of(blobs, labels=None, classes=()) -> Source:
    labels = [-1] * len(blobs) if labels is None else labels
    listing = Listing([f"bilder/{i}ü.png" for i in range(len(blobs))], labels, classes, lambda: iter(blobs))
    return Source(("test",), [], lambda: listing)

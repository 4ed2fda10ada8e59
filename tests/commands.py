"""What tests of the command share."""

from pathlib import Path

import numpy as np
from PIL import Image


def photos(folder: Path, n: int = 12, size: int = 10, seed: int = 0) -> Path:
    """A flat folder of random PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (n, size, size, 3), dtype=np.uint8)
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{i:03}.png")
    return folder


def complaint(capsys) -> str:
    """The one sentence that a mistake gets."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line]
    assert lines, "nothing was said"
    assert lines[-1].startswith("shoal: ")
    return lines[-1]

"""How long a run takes to its first step, ``import shoal`` to its end, and the libraries of the step to theirs.

    python benchmarks/start.py [--images 60000] [--recipe propos-cifar10]

Images of noise are written as PNG files into a zip. The first start decodes them into a cache of its own, the next ones
find them there. Each is the whole command in a process of its own, stopped where the first step would begin.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from command import keep

TO_FIRST_STEP = """
import os, sys
from shoal.cli.main import main as cli
from shoal.training import loop
def stop(*_):
    os.write(1, b"step\\n")
    os._exit(0)
loop.train_step = stop
cli.main(sys.argv[1:])
raise SystemExit("there was no step")
"""

LIBRARIES = "import torch, timm; torch.optim.SGD([torch.zeros(1)], lr=0.1)"
"""What no start goes without: an optimiser loads torch._dynamo when it is made."""


def write_images(path: Path, n: int) -> None:
    """A zip of PNG files of 32 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for i, each in enumerate(pixels):
            file = io.BytesIO()
            Image.fromarray(each).save(file, "png", compress_level=1)
            archive.writestr(f"{i:06}.png", file.getvalue())


def seconds_of(*command: str, cache: Path) -> float:
    """Wall time of a Python process."""
    environment = os.environ | {"SHOAL_CACHE": str(cache)}
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print seconds to the first step of a first and of a later start, and of the import."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--recipe", default="propos-cifar10")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", default="", help="keep the figures under this name in benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        write_images(folder / "noise.zip", args.images)

        def start(number: int) -> float:
            flags = ["--data.path", str(folder / "noise.zip"), "--quiet", "--out", str(folder / f"run{number}")]
            return seconds_of("-c", TO_FIRST_STEP, "train", args.recipe, *flags, cache=cache)

        first = start(0)
        later, libraries = [], []
        for number in range(1, args.repeats + 1):
            later.append(start(number))
            libraries.append(seconds_of("-c", LIBRARIES, cache=cache))
        python = [seconds_of("-c", "pass", cache=cache) for _ in range(args.repeats)]
        shoal = "import shoal, sys; assert 'torch' not in sys.modules"
        imports = [seconds_of("-c", shoal, cache=cache) for _ in range(args.repeats)]
    figures = {
        "first start": first,
        "start with the images in the cache": statistics.median(later),
        "libraries alone": statistics.median(libraries),
        "import shoal, without Python": statistics.median(imports) - statistics.median(python),
    }
    print(f"{args.recipe}, {args.images} images; seconds to the first step, medians of {args.repeats}")
    for title, seconds in figures.items():
        print(f"{title:<36}{seconds:8.2f} s")
    if args.save:
        keep(args.save, {"images": args.images, "recipe": args.recipe, "seconds": figures})


if __name__ == "__main__":
    main()

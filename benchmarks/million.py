"""A million image files, and what they take: to be listed, and to be embedded by a tiny network, also if it is killed.

The files are hard links in nested folders to a few thousand real JPEG files, so the disk holds few bytes. Embedding
runs once to its end, and once more while it is killed with signal 9 three times; the features must be the same.

    python benchmarks/million.py [--n 1000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from shoal.features import Encoder

_REAL = 2000  # JPEG files that the links lead to
_EACH = 1000  # files of a folder
_WIDE = 20  # folders of a folder


def build(folder: Path, n: int) -> Path:
    """Make a tree of ``n`` images, or take the one that is there."""
    tree = folder / f"images-{n}"
    if tree.is_dir():
        return tree
    real = folder / "real"
    real.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(_REAL):
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(real / f"{number:04}.jpg", quality=85)
    begun = folder / f"begun-{n}"
    for start in range(0, n, _EACH):
        number = start // _EACH
        inner = begun / f"part {number // _WIDE:04}" / f"folder {number % _WIDE:02}"
        inner.mkdir(parents=True, exist_ok=True)
        for row in range(start, min(start + _EACH, n)):
            os.link(real / f"{row % _REAL:04}.jpg", inner / f"IMG_{row:08}.jpg")
    begun.rename(tree)
    return tree


def list_images(tree: Path) -> dict[str, float]:
    """List the images as every command does before it reads one: names, labels, and the stamp of the cache."""
    from shoal.data import cache, find_source

    before, start = _peak(), time.perf_counter()
    source = find_source(tree)
    listing = source.listing()
    listed = time.perf_counter()
    cache.stamp_of(source, None)
    stamped = time.perf_counter()
    figures = {"images": len(listing.ids), "list s": listed - start, "stamp s": stamped - listed}
    return figures | {"peak growth MB": _peak() - before}


def tiny_encoder() -> Encoder:
    """A small network with the weights of seed 0, at 16 px: nearly all time goes into reading."""
    import torch

    from shoal.features import Encoder, EncoderSpec
    from shoal.features.inference import SquarePreparing
    from shoal.models.small import SmallNet

    torch.manual_seed(0)
    network = SmallNet(8, 1).eval()
    spec = EncoderSpec("timm", "tiny", digest="seed 0")
    device, size = torch.device("cpu"), (16, 16)
    return Encoder(spec, network, network.n_features, size, device, "float32", SquarePreparing(size), network)


def embed_images(tree: Path) -> dict[str, float]:
    """Embed all images, or go on where a process that was killed stopped."""
    from shoal.data import find_source
    from shoal.features import embed

    encoder, before, start = tiny_encoder(), _peak(), time.perf_counter()
    found = embed(find_source(tree), encoder, tree.parent / os.environ["FEATURES"])
    seconds = time.perf_counter() - start
    return {"images": len(found.ids), "s": seconds, "peak growth MB": _peak() - before, "peak MB": _peak()}


def embed_killed(tree: Path, seconds: float) -> dict[str, float]:
    """Kill embedding three times in what it takes, let it end, and compare its features with those of the whole run."""
    command = [sys.executable, __file__, "--step", "embed", "--folder", str(tree)]
    environment = os.environ | {"FEATURES": "killed"}
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        time.sleep(seconds / 4)
        process.kill()
        process.wait()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    same = filecmp.cmp(tree.parent / "whole" / "features.f32", tree.parent / "killed" / "features.f32", shallow=False)
    return {"kills": 3, "identical": same}


STEPS = {"list": list_images, "embed": embed_images}
"""What is measured, each in a process of its own, whose memory nothing else has grown."""


def measure(step: str, tree: Path) -> Mapping[str, float]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(tree)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | {"FEATURES": "whole"})
    figures: Mapping[str, float] = json.loads(done.stdout)
    return figures


def _peak() -> float:
    """Most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="files")
    parser.add_argument("--folder", type=Path, help="where they are kept for the next time; else they are removed")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(STEPS[args.step](args.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        tree = build(args.folder or Path(temporary), args.n)
        print(f"{args.n} files in {tree}, after {time.perf_counter() - start:.1f} s", flush=True)
        for name in ("whole", "killed"):
            shutil.rmtree(tree.parent / name, ignore_errors=True)
        for step in STEPS:
            figures = measure(step, tree)
            tell(step, figures)
        tell("killed", embed_killed(tree, figures["s"]))


def tell(step: str, figures: Mapping[str, float]) -> None:
    """Print the figures of a step on a line."""
    print(f"{step:<8}" + "  ".join(f"{name} {value:.6g}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()

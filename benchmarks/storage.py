"""Embedding images from an S3 server against a local folder: images a second, processor time and memory.

The files are hard links to two hundred JPEG files of 500 × 375 pixels. The server (``s3_server.py``) runs on the same
machine, and makes each request wait; its processor time is told apart, as on a real job it is another machine's. A
folder, the same files in a bucket, and tar archives of them in a bucket are embedded in turn, each in a process of its
own, by the same network with random weights.

    python benchmarks/storage.py [--n 20000] [--delay 0.02] [--network mobilenetv3_small_050] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from shoal.features import Encoder

_REAL = 200  # JPEG files that the links lead to
_EACH = 1000  # files of a folder
_SIDE = 160  # pixels that the network sees


def build(folder: Path, n: int) -> Path:
    """Make a tree of ``n`` images, or take the one that is there."""
    tree = folder / f"photos-{n}"
    if tree.is_dir():
        return tree
    real = folder / "real"
    real.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(_REAL):
        small = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(real / f"{number:03}.jpg", quality=90)
    begun = folder / f"begun-{n}"
    for row in range(n):
        inner = begun / f"part {row // _EACH:03}"
        inner.mkdir(parents=True, exist_ok=True)
        os.link(real / f"{row % _REAL:03}.jpg", inner / f"IMG_{row:06}.jpg")
    begun.rename(tree)
    return tree


def encoder_of(name: str) -> Encoder:
    """A network of timm with random weights; ``tiny`` has a few, so that nearly all time goes into reading."""
    import timm
    import torch

    from shoal.features import Encoder, EncoderSpec
    from shoal.features.inference import SquarePreparing
    from shoal.models.small import SmallNet

    torch.manual_seed(0)
    side = 16 if name == "tiny" else _SIDE
    network = SmallNet(8, 1) if name == "tiny" else timm.create_model(name, num_classes=0)
    with torch.no_grad():
        n_features = network.eval()(torch.zeros(1, 3, side, side)).shape[1]
    spec, size = EncoderSpec("timm", name, digest="seed 0"), (side, side)
    return Encoder(spec, network, n_features, size, torch.device("cpu"), "float32", SquarePreparing(size), network)


def embed_images(source: str, network: str) -> dict[str, float]:
    """Embed all images, and say what that took."""
    from shoal.data import find_source
    from shoal.features import embed

    encoder = encoder_of(network)
    listed = time.perf_counter()
    found = find_source(source)
    n = len(found.listing().ids)
    listing, before = time.perf_counter() - listed, _peak()
    start, used = time.perf_counter(), _used()
    with tempfile.TemporaryDirectory() as folder:
        embedded = embed(found, encoder, Path(folder) / "features")
        assert len(embedded.ids) == n, "images were skipped"
        digest = float(embedded.features.sum())
    seconds = time.perf_counter() - start
    figures = {"images": n, "list s": listing, "images/s": n / seconds, "CPU ms": 1000 * (_used() - used) / n}
    return figures | {"peak growth MB": _peak() - before, "peak MB": _peak(), "sum of features": digest}


def _used() -> float:
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(source: str, network: str, port: str = "") -> Mapping[str, float]:
    """Embed a source in a process of its own."""
    known = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    known |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "no_proxy": "*"}
    command = [sys.executable, __file__, "--step", source, "--network", network]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | known)
    figures: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def pack(tree: Path) -> Path:
    """Put the files of each folder into a tar archive, or take those that are there."""
    shards = tree.with_name(f"shards-{tree.name}")
    if not shards.is_dir():
        begun = tree.with_name(f"begun-{shards.name}")
        begun.mkdir(exist_ok=True)
        for folder in sorted(tree.iterdir()):
            with tarfile.open(begun / f"{folder.name}.tar", "w", dereference=True) as archive:
                for file in sorted(folder.iterdir()):
                    entry = archive.gettarinfo(file, file.name)
                    entry.type, entry.size = tarfile.REGTYPE, file.stat().st_size  # not a hard link to another
                    with file.open("rb") as opened:
                        archive.addfile(entry, opened)
        begun.rename(shards)
    return shards


def measure_stored(bucket: Path, delay: float, network: str) -> dict[str, float]:
    """Embed what a server serves, and add what that took of it."""
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(bucket), "--delay", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            stored = measure("s3://bucket/", network, server.stdout.readline().strip())
        finally:
            server.send_signal(signal.SIGTERM)
        used, n_requests = map(float, server.stdout.readline().split())
    return {**stored, "server CPU ms": 1000 * used / stored["images"], "requests": n_requests}


def main(folder: Path, n: int, delay: float, network: str) -> None:
    """Measure all three, and print a line for each."""
    tree = build(folder, n)
    found = {"folder": measure(str(tree), network), "S3": measure_stored(tree, delay, network)}
    found["S3, tar"] = measure_stored(pack(tree), delay, network)
    for name, figures in found.items():
        share = figures["images/s"] / found["folder"]["images/s"]
        print(f"{name:<8} {share:.2f}  " + "  ".join(f"{what} {value:.4g}" for what, value in figures.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--network", default="mobilenetv3_small_050")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--step", default="")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(embed_images(given.step, given.network)))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(given.folder or Path(scratch), given.n, given.delay, given.network)

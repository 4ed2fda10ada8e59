"""Do greys of 10, 12 and 14 bits that are stored in 16 keep the clusters of the same photos at full range?

    python benchmarks/depths.py FOLDER --weights FILE [--name tf_efficientnet_lite0]

FOLDER holds photos in a subfolder per class; 25 of each become grey TIFFs or PNGs of 16 bits (the grey times 257), and
the same shifted down to fewer bits. Each set is embedded and clustered by the command, which says the range.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from shoal.data.reading import read_pixels
from shoal.evaluation.metrics import clustering_scores
from shoal.results.result import Result

EACH = 25
DEPTHS = (16, 14, 12, 10)


def write_greys(photos: Path, folder: Path, bits: int, container: str) -> None:
    """Write the photos as greys of this many bits, in files of 16."""
    for group in sorted(path for path in photos.iterdir() if path.is_dir()):
        (folder / group.name).mkdir(parents=True)
        for number, file in enumerate(sorted(group.iterdir())[:EACH]):
            grey = np.asarray(Image.open(file).convert("L"), np.uint16) * 257
            Image.fromarray(grey >> (16 - bits)).save(folder / group.name / f"{number:03}.{container}")


def main() -> None:
    """Print ACC at each depth, and how far the pixels are from those of the full range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--name", default="tf_efficientnet_lite0")
    parser.add_argument("--containers", nargs="+", default=["tif", "png"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for container in args.containers:
            full: np.ndarray | None = None
            for bits in DEPTHS:
                source, out = Path(scratch) / f"{container}{bits}", Path(scratch) / f"{container}{bits}-clusters"
                write_greys(args.folder, source, bits, container)
                command = ["shoal", "cluster", str(source), "-k", "10", "--out", str(out), "--backbone.name", args.name]
                done = subprocess.run(
                    [*command, "--backbone.weights", args.weights], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    sys.exit(done.stderr)
                result = Result.load(out)
                assert result.embedded is not None
                targets, labels = result.embedded.targets, result.assignments.labels
                pixels = read_pixels(result.listing, range(len(targets)), 64, result.embedded.ranges).numpy()
                full = pixels if full is None else full
                off = np.abs(pixels.astype(int) - full).max()
                acc = clustering_scores(targets, labels)["acc"]
                said = next((line for line in done.stderr.splitlines() if line.startswith("range")), "nothing")
                print(f"{container} {bits:2} bits: ACC {acc:.3f}, pixels differ by at most {off}; {said}")


if __name__ == "__main__":
    main()

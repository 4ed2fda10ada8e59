"""How long images take to be there: the first start, which decodes them, and the second, which maps the cache.

python benchmarks/loading.py PATH [PATH ...]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

from shoal.data import DataConfig, load_images


def seconds(path: str) -> tuple[int, float]:
    """Number of images, and how long they took."""
    start = time.perf_counter()
    images = load_images(DataConfig(path=path))
    images.pixels[:1].sum()
    return len(images), time.perf_counter() - start


def main() -> None:
    """Print a row for each path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+")
    print("images  first s  second s  peak GB  path")
    for path in parser.parse_args().paths:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["SHOAL_CACHE"] = cache
            n, first = seconds(path)
            _, second = seconds(path)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{n:>6}  {first:7.2f}  {second:8.2f}  {peak:7.2f}  {path}", flush=True)


if __name__ == "__main__":
    main()

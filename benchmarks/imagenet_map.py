"""A map of as many pixels as ImageNet-1k has: what it costs to make, to open and to read as training does.

    python benchmarks/imagenet_map.py [--images 1281167] [--side 64] [--folder FOLDER] [--keep] [--save NAME]

The map is an entry of the cache like any other, of real random bytes: a file with holes would need no disk. Batches in
random order are read as training reads them, as plain indexing reads them (page faults) and image by image, each cold
(the system has put the file out of its memory) and warm (the same images once more, through a new map), and the file
from its beginning. Every figure is of a process of its own with one thread; ways take turns, and medians are kept.
Beside it stands what decoding costs: generated JPEG files by one core.
"""

from __future__ import annotations

import argparse
import gc
import io
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from command import keep
from shoal.data import Listing, cache, feed
from shoal.data.decode import decode
from shoal.data.images import digest
from shoal.data.reading import Reading

IMAGENET = 1_281_167
CPU = torch.device("cpu")
_CHUNK = 2**26  # random bytes, which are written again and again from another place on
_PIECE = 2**23  # bytes that a plain read asks for at a time
_KEY = "synthetic"

Found = TypeVar("Found")


def fitting(n: int, side: int, folder: Path) -> int:
    """As many images as take half of the free disk, if these are fewer."""
    return min(n, shutil.disk_usage(folder).free // 2 // (3 * side * side))


def build(n: int, side: int) -> dict[str, float]:
    """Write the map and what belongs to it, as if ``n`` images had been decoded."""
    generator = np.random.default_rng(0)
    noise = memoryview(generator.integers(0, 256, _CHUNK, dtype=np.uint8).tobytes() * 2)
    ids = [f"n{row // 1300:08}/n{row // 1300:08}_{row % 1300:05}.JPEG" for row in range(n)]
    listing = Listing(ids, [row // 1300 for row in range(n)], tuple(map(str, range(n // 1300 + 1))), lambda: iter(()))
    left, start = n * 3 * side * side, time.perf_counter()
    with cache.CacheWriter() as draft:
        while left:
            at, size = int(generator.integers(_CHUNK)), min(left, _CHUNK)
            draft.write(noise[at : at + size])  # type: ignore[arg-type]
            left -= size
        reading = Reading(height=side, width=side, kept=list(range(n)), skipped={}, digest="", notes={})
        draft.finish(_KEY, listing, reading, {})
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "MB/s": n * 3 * side * side / seconds / 1e6}


def forget() -> None:
    """Put the map out of the system's memory."""
    with pixel_file().open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pixel_file() -> Path:
    """Where the pixels are."""
    return cache.cache_folder() / f"{_KEY}.u8"


def opened() -> Tensor:
    """The pixels of the map, as a start finds them."""
    images = cache.load(_KEY)
    assert images is not None
    return images.pixels


def as_training(pixels: Tensor, parts: list[Tensor]) -> Iterator[Tensor]:
    """As the trainer takes them."""
    with closing(feed(pixels, parts, CPU)) as batches:
        yield from batches


def by_indexing(pixels: Tensor, parts: list[Tensor]) -> Iterator[Tensor]:
    """Left to page faults."""
    return (pixels[rows] for rows in parts)


def one_by_one(pixels: Tensor, parts: list[Tensor]) -> Iterator[Tensor]:
    """Left to page faults, and image by image."""
    return (torch.stack([pixels[row] for row in rows.tolist()]) for rows in parts)


WAYS = {"as training": as_training, "by indexing": by_indexing, "one by one": one_by_one}


def random_reads(way: str, batch: int, batches: int, seed: int) -> dict[str, float]:
    """Rate of batches in random order, and what the disk read for what was asked for."""
    pixels = opened()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    parts = list(torch.split(order[: batch * batches], batch))
    before, anonymous, start = _from_disk(), _status("RssAnon"), time.perf_counter()
    n = sum(len(found) for found in WAYS[way](pixels, parts))
    seconds, asked = time.perf_counter() - start, n * pixels[0].nbytes
    rates = {"images/s": n / seconds, "MB/s": asked / seconds / 1e6, "ms a batch": 1000 * seconds / len(parts)}
    grown = {"RssAnon grew MB": _status("RssAnon") - anonymous, "RssFile MB": _status("RssFile")}
    return rates | {"read from disk, of asked": (_from_disk() - before) / asked} | grown


def from_the_beginning(most: int) -> dict[str, float]:
    """Rate of a plain read of the file, of ``most`` bytes at most."""
    buffer, read, start = bytearray(_PIECE), 0, time.perf_counter()
    with pixel_file().open("rb", buffering=0) as file:
        while read < most and (n := file.readinto(buffer)):
            read += n
    seconds = time.perf_counter() - start
    return {"MB/s": read / seconds / 1e6, "MB": read / 1e6}


def opening(batch: int) -> dict[str, float]:
    """Seconds and memory of a start, from the entry of the cache to the first batch."""
    figures = {"RssAnon MB, libraries": _status("RssAnon")}
    start = time.perf_counter()
    images = cache.load(_KEY)
    assert images is not None
    figures |= {"load s": time.perf_counter() - start, "RssAnon MB, loaded": _status("RssAnon")}
    start = time.perf_counter()
    parts = [torch.randperm(len(images))[:batch]]
    next(as_training(images.pixels, parts))
    figures["order and first batch s"] = time.perf_counter() - start
    start = time.perf_counter()
    digest(images)
    seconds = time.perf_counter() - start
    figures |= {"digest s": seconds, "digest MB/s": images.pixels.nbytes / seconds / 1e6}
    return figures | {"RssAnon MB, digested": _status("RssAnon"), "RssFile MB, digested": _status("RssFile")}


def decoding(seconds: float = 3.0) -> dict[str, dict[str, float]]:
    """Images a second of one core: files as decoded for the cache, and whole files by Pillow alone."""
    files = {"64 x 64": _jpeg(64, 64), "500 x 375": _jpeg(500, 375)}
    found = {}
    for name, data in files.items():

        def whole(data: bytes = data) -> object:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

        sides: dict[str, Callable[[], object]] = {"Pillow": whole}
        for side in (64, 160, 224) if name != "64 x 64" else (64,):
            sides[f"to {side} px"] = lambda data=data, side=side: decode(data, side)  # type: ignore[misc]
        found[name] = {"KB": len(data) / 1000} | {key: _rate(work, seconds) for key, work in sides.items()}
    return found


def _rate(work: Callable[[], object], seconds: float) -> float:
    """Calls a second: the median of rounds."""
    took: list[float] = []
    work()
    while sum(took) < seconds:
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return 1 / statistics.median(took)


def _jpeg(width: int, height: int) -> bytes:
    """Noise at every scale, more of the coarse than of the fine, in a file about as large as a photo's."""
    generator, total = np.random.default_rng(0), np.zeros((height, width, 3), np.float32)
    for level in range(8):
        shape = (max(1, height >> level), max(1, width >> level), 3)
        noise = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        total += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) * 1.2**level
    pixels = (total * (60 / total.std()) + 127.5).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def _from_disk() -> int:
    """Bytes that the disk has read for this process, ahead of its asking too."""
    return int(Path("/proc/self/io").read_text().partition("\nread_bytes: ")[2].split()[0])


def _status(name: str) -> float:
    """A line of Linux's account of this process, in MB."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def alone(function: Callable[..., Found], *args: object) -> Found:
    """The answer of a function in a process of its own, with one thread."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        return pool.apply(function, args)


def measure(batch: int, batches: int, repeats: int) -> dict[str, Any]:
    """All figures of the map that is there."""
    found: dict[str, Any] = {}
    for state in ("cold", "warm"):
        if state == "cold":
            forget()
        found[f"from the beginning, {state}"] = alone(from_the_beginning, 2**31)
        tell(f"from the beginning, {state}", found[f"from the beginning, {state}"])
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in range(repeats):
        for way in WAYS:
            forget()
            for state in ("cold", "warm"):
                runs.setdefault(f"{way}, {state}", []).append(alone(random_reads, way, batch, batches, seed))
    for name, each in runs.items():
        found[name] = {key: statistics.median(run[key] for run in each) for key in each[0]}
        tell(name, found[name])
    forget()
    for state in ("cold", "warm"):
        found[f"opening, {state}"] = alone(opening, batch)
        tell(f"opening, {state}", found[f"opening, {state}"])
    return found


def tell(name: str, figures: dict[str, float]) -> None:
    """Print the figures of a part on a line."""
    print(f"{name:<26}" + "   ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)


def read_ahead(path: Path) -> int | None:
    """KB that the system reads around a page that is not there."""
    device = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(setting.read_text()) if setting.exists() else None


def main() -> None:
    """Make the map, measure, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGENET)
    parser.add_argument("--side", type=int, default=64, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--batches", type=int, default=10, help="read each way, cold and warm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--keep", action="store_true", help="leave the map there")
    parser.add_argument("--save", default="", help="keep the figures under this name in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    n = fitting(args.images, args.side, args.folder)
    short = f" ({args.images} would take more than half of the free disk)" if n < args.images else ""
    print(f"{n} images of {args.side} px, {n * 3 * args.side**2 / 1e9:.2f} GB{short}")
    tell("decoding, 64 x 64", (decoded := decoding())["64 x 64"])
    tell("decoding, 500 x 375", decoded["500 x 375"])
    folder = Path(tempfile.mkdtemp(prefix="imagenet-map-", dir=args.folder))
    os.environ["SHOAL_CACHE"] = str(folder)
    try:
        written = build(n, args.side)
        tell("written", written)
        about = {"images": n, "side": args.side, "batch": args.batch, "read ahead KB": read_ahead(pixel_file())}
        found = {**about, "written": written, **measure(args.batch, args.batches, args.repeats), "decoding": decoded}
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    if args.save:
        keep(args.save, found)


if __name__ == "__main__":
    main()

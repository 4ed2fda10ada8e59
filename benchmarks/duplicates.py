"""How many planted copies are found, and how many pairs of different images are taken for copies.

    python benchmarks/duplicates.py FOLDER WEIGHTS [DATA.parquet …]
    python benchmarks/duplicates.py --scale 100000

FOLDER holds photos of any size, at least 40, at any depth; WEIGHTS is a .safetensors file of timm's
tf_efficientnet_lite0. Of each kind 40 copies are planted, of other photos than those of the kinds before it if there
are enough. The photos of the even and the odd subfolders are two sets; without subfolders every other photo. From each
Parquet file 3 000 images are taken as they are; the pairs found are named, to be looked at.

Compared are: shoal's rule; its rule for trained networks, by thumbnails alone; a cosine of 0.95; and a 64-bit
perceptual hash (the lowest frequencies of 32 x 32 pixels, also mirrored) at a Hamming distance of at most 10 with a
cosine of 0.7. The last line says what the sketches cost.
"""

from __future__ import annotations

import io
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from shoal.clustering import approximate_neighbours
from shoal.data import find_source
from shoal.data.equal import first_of_each, first_rows
from shoal.data.greys import Scale
from shoal.data.reading import open_content
from shoal.data.sketch import SKETCH, sketch
from shoal.features import Embedded, EncoderSpec, embed, load_encoder
from shoal.features.encoder import Encoder
from shoal.results.copies import Pairs, copies, pairs_by_cosine

EACH = 40
N_OF_TABLE = 3000
HAMMING, COSINE = 10, 0.7


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """As the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def cropped(image: Image.Image, share: float, left: float = 0.5, top: float = 0.5) -> Image.Image:
    """So much of each side, from the middle or from elsewhere."""
    width, height = round(image.width * share), round(image.height * share)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def resized(image: Image.Image, edge: int) -> Image.Image:
    """To a longer edge of this many pixels."""
    share = edge / max(image.size)
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def with_text(image: Image.Image) -> Image.Image:
    """With a line of white text over the lower third."""
    marked = image.copy()
    size = max(10, image.height // 6)
    ImageDraw.Draw(marked).text((4, image.height * 2 // 3), "(c) SHOAL 26", fill="white", font_size=size)
    return marked


def turned_by_tag(image: Image.Image) -> bytes:
    """Pixels on their side, and the tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=92, exif=exif)


WANTED: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 75": lambda image: saved(image, "JPEG", quality=75),
    "JPEG 40": lambda image: saved(image, "JPEG", quality=40),
    "brighter by a tenth": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.1)),
    "mirrored": lambda image: saved(ImageOps.mirror(image)),
    "90 % of each side": lambda image: saved(cropped(image, 0.9)),
    "48 px": lambda image: saved(resized(image, 48)),
}
"""Those that have to be found."""

OTHERS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": saved,
    "turned by EXIF": turned_by_tag,
    "JPEG 20": lambda image: saved(image, "JPEG", quality=20),
    "WebP 60": lambda image: saved(image, "WEBP", quality=60),
    "32 px": lambda image: saved(resized(image, 32)),
    "twice the size": lambda image: saved(resized(image, 2 * max(image.size))),
    "grey": lambda image: saved(image.convert("L")),
    "brighter by a third": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.33)),
    "more contrast": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.3)),
    "95 % of each side": lambda image: saved(cropped(image, 0.95)),
    "80 % of each side": lambda image: saved(cropped(image, 0.8)),
    "90 % from elsewhere": lambda image: saved(cropped(image, 0.9, random.random(), random.random())),
    "80 % from elsewhere": lambda image: saved(cropped(image, 0.8, random.random(), random.random())),
    "85 % of the height": lambda image: saved(image.crop((0, 0, image.width, round(image.height * 0.85)))),
    "90 %, mirrored": lambda image: saved(ImageOps.mirror(cropped(image, 0.9))),
    "border of 3 %": lambda image: saved(ImageOps.expand(image, round(0.03 * max(image.size)), "white")),
    "with text": lambda image: saved(with_text(image)),
    "turned by 2 degrees": lambda image: saved(image.rotate(2, Image.Resampling.BILINEAR)),
    "turned by 90 degrees": lambda image: saved(image.transpose(Image.Transpose.ROTATE_90)),
}
"""Others, for which nothing was chosen."""


def hashes(listing_files: list[Path]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Signs of the lowest 8 × 8 frequencies but the mean (n, 63)."""
    codes = []
    for file in listing_files:
        grey = np.asarray(Image.open(file).convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float32)
        codes.append(dctn(grey, norm="ortho")[:8, :8].ravel()[1:] > 0)
    return np.stack(codes)


def pairs_by_hash(features: Tensor, codes: np.ndarray[Any, np.dtype[np.bool_]]) -> Pairs:
    """Pairs at a small Hamming distance, as they are or mirrored, whose cosine is at least 0.7."""
    odd = (np.arange(64) % 8 % 2 == 1)[1:]  # mirroring changes the sign of each odd frequency
    plain, mirrored = (
        torch.from_numpy(np.where(flip, -1.0, 1.0) * (2.0 * codes - 1)).float() for flip in (odd & False, odd)
    )
    near = torch.maximum(plain @ plain.T, plain @ mirrored.T) >= codes.shape[1] - 2 * HAMMING
    unit = torch.nn.functional.normalize(features.float())
    one, other = torch.triu(near & (unit @ unit.T >= COSINE), 1).nonzero(as_tuple=True)
    return Pairs(one, other, (unit[one] * unit[other]).sum(1))


def halves(folder: Path) -> dict[str, list[Path]]:
    """The photos of a folder in two sets: even and odd subfolders, without subfolders even and odd files."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    parents = sorted({path.parent for path in found})
    if len(parents) == 1:
        return {"even files": found[::2], "odd files": found[1::2]}
    even = set(parents[::2])
    return {
        "even subfolders": [path for path in found if path.parent in even],
        "odd subfolders": [path for path in found if path.parent not in even],
    }


def plant(
    files: list[Path], kinds: dict[str, Callable[[Image.Image], bytes]], folder: Path, seed: int
) -> dict[str, str]:
    """Copy the photos into a folder, and changed ones beside them: names of these, and of the photo of each."""
    random.seed(seed)
    own = {file: f"{file.stem}-{number}{file.suffix}" for number, file in enumerate(files)}
    for file, name in own.items():
        shutil.copy(file, folder / name)
    shuffled = random.sample(files, len(files))
    planted = {}
    for number, (kind, change) in enumerate(kinds.items()):
        for file in (shuffled[(number * EACH + i) % len(files)] for i in range(EACH)):
            name = f"{kind}+{own[file]}.png"
            (folder / name).write_bytes(change(Image.open(file).convert("RGB")))
            planted[name] = own[file]
    return planted


def embedded_in(folder: Path, encoder: Encoder) -> tuple[Embedded, dict[str, Pairs]]:
    """The features of a folder of files, and the pairs that each rule finds."""
    with tempfile.TemporaryDirectory() as kept:
        source = find_source(folder)
        embedded = embed(source, encoder, Path(kept) / "features")
        first = first_of_each(embedded.fingerprints)
        rows = first_rows(first)
        found = approximate_neighbours(embedded.features, rows)
        assert embedded.sketches is not None
        codes = hashes([folder / name for name in embedded.ids])
        equal = Pairs(torch.arange(len(first)), first, torch.ones(len(first)))
        rules = {
            "shoal": copies(embedded.features, rows, [found], embedded.sketches),
            "thumbnails": copies(embedded.features, rows, [found], embedded.sketches, trained=True),
            "cosine": pairs_by_cosine(found),
            "hash": pairs_by_hash(embedded.features, codes),
        }
        return embedded, {name: joined(pairs, equal) for name, pairs in rules.items()}


def joined(*each: Pairs) -> Pairs:
    """All of these pairs."""
    return Pairs(*(torch.cat([getattr(pairs, name) for pairs in each]) for name in ("one", "other", "similarity")))


def groups(pairs: Pairs, n: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The group of each row."""
    links = coo_array((np.ones(len(pairs.one)), (pairs.one.numpy(), pairs.other.numpy())), shape=(n, n))
    numbers: np.ndarray[Any, np.dtype[np.int32]] = connected_components(links, directed=False)[1]
    return numbers


def planted_table(
    title: str, files: list[Path], kinds: dict[str, Callable[[Image.Image], bytes]], encoder: Encoder, seed: int
) -> None:
    """Print how many copies of each kind each rule finds, and how many false pairs."""
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(files, kinds, Path(folder), seed)
        embedded, rules = embedded_in(Path(folder), encoder)
    place = {name: row for row, name in enumerate(embedded.ids)}
    origin = [planted.get(name, name) for name in embedded.ids]
    print(f"\n{title}: {len(files)} photos, seed {seed}\n{'':<24}" + "".join(f"{name:>12}" for name in rules))
    group = {name: groups(pairs, len(origin)) for name, pairs in rules.items()}
    for kind in kinds:
        rows = [(place[name], place[photo]) for name, photo in planted.items() if name.startswith(f"{kind}+")]
        hits = [sum(own[copy] == own[photo] for copy, photo in rows) for own in group.values()]
        print(f"{kind:<24}" + "".join(f"{hit:>12}" for hit in hits), flush=True)
    false = {
        name: {
            tuple(sorted((origin[i], origin[j])))
            for i, j in zip(pairs.one.tolist(), pairs.other.tolist(), strict=True)
            if origin[i] != origin[j]
        }
        for name, pairs in rules.items()
    }
    print(f"{'pairs of other photos':<24}" + "".join(f"{len(pairs):>12}" for pairs in false.values()))
    print(f"  of shoal: {sorted(false['shoal'])}")


def as_they_are(table: Path, encoder: Encoder) -> None:
    """Print the pairs that are found among images of a data set."""
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(_images_of(table)):
            (Path(folder) / f"{number:06}.png").write_bytes(saved(Image.open(io.BytesIO(data)).convert("RGB")))
        embedded, rules = embedded_in(Path(folder), encoder)
    counts = Counter({name: int((pairs.one != pairs.other).sum()) for name, pairs in rules.items()})
    print(f"\n{table.name}: pairs found among {len(embedded.ids)} images: {dict(counts)}")
    pairs = rules["shoal"]
    for i, j in zip(pairs.one.tolist(), pairs.other.tolist(), strict=True):
        if i != j:
            print(f"  {embedded.ids[i]} {embedded.ids[j]}")


def _images_of(table: Path) -> Iterator[bytes]:
    column = next(name for name in pq.read_schema(table).names if name != "label")
    yield from pq.read_table(table, columns=[column])[column].combine_chunks().field("bytes").to_pylist()[:N_OF_TABLE]


def cost(files: list[Path], encoder: Encoder) -> None:
    """Print what a sketch takes beside what an image takes."""
    contents = [file.read_bytes() for file in files[:200]]
    ready = [
        (open_content(data, encoder.preparing.min_side, Scale())[0], data, encoder.prepare(data)) for data in contents
    ]
    start = time.perf_counter()
    for image, data, pixels in ready:
        sketch(image, data, pixels)
    sketched = time.perf_counter() - start
    start = time.perf_counter()
    for data in contents:
        encoder.embed(torch.from_numpy(encoder.prepare(data))[None])
    whole = time.perf_counter() - start
    share = sketched / whole
    print(f"\na sketch takes {1e6 * sketched / len(ready):.0f} us, {share:.1%} of decoding and embedding an image")


def scale(n: int) -> None:
    """Print the seconds of the search among n made-up images, a tenth of them copies, and the peak memory."""
    draw = torch.Generator().manual_seed(0)
    groups_of_features = torch.randn(n // 50, 384, generator=draw)
    features = groups_of_features[torch.randint(n // 50, (n,), generator=draw)] + torch.randn(n, 384, generator=draw)
    luma = torch.nn.functional.interpolate(torch.rand(n, 1, 6, 6, generator=draw), size=16, mode="bicubic")[:, 0]
    originals = torch.arange(n // 10)
    features[-len(originals) :] = features[originals] + 0.1 * torch.randn(len(originals), 384, generator=draw)
    luma[-len(originals) :] = luma[originals] + 0.005 * torch.randn(len(originals), 16, 16, generator=draw)
    sketches = np.zeros(n, SKETCH)
    sketches["luma"], sketches["chroma"], sketches["width"] = (255 * luma.clamp(0, 1)).round().numpy(), 128, 64
    start = time.perf_counter()
    found = approximate_neighbours(features, torch.arange(n))
    searched = time.perf_counter() - start
    pairs = copies(features, torch.arange(n), [found], sketches)
    seconds = time.perf_counter() - start - searched
    right = int((pairs.other - pairs.one == n - len(originals)).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{n} images: neighbours by features {searched:.0f} s (needed for outliers anyway), copies {seconds:.0f} s")
    print(f"{right} of {len(originals)} copies, {len(pairs.one) - right} other pairs; peak {peak:.1f} GB")


def main() -> None:
    """Print a table for each half of the photos, and the pairs in other data sets; or how the search scales."""
    if sys.argv[1] == "--scale":
        scale(int(sys.argv[2]))
        return
    encoder = load_encoder(EncoderSpec("timm", "tf_efficientnet_lite0", sys.argv[2]), torch.device("cpu"))
    for half, (title, files) in enumerate(halves(Path(sys.argv[1])).items()):
        planted_table(title, files, WANTED, encoder, seed=half)
        if half:
            planted_table(title, files, OTHERS, encoder, seed=2)
            few = files[:: max(1, len(files) // 60)][:60]
            planted_table("few", few, WANTED, encoder, seed=3)
            cost(files, encoder)
    for table in sys.argv[3:]:
        as_they_are(Path(table), encoder)


if __name__ == "__main__":
    main()

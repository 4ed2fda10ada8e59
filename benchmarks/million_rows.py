"""Features of many images without the images: a folder of them, its clustering stage by stage, and what reads it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from measured import Memory, measured
from shoal.results.copies import Pairs

SPREAD = 0.6
"""Standard deviation of rows about the centre of their group, which has unit length, times √d."""

GROUPS = 100
COPIES = 0.01
"""Share of the rows that are nearly copies of the row before, and as many that are the same file."""

_CHUNK = 16_384


def make(folder: Path, tree: Path | None, n: int, d: int) -> None:
    """A features folder of n rows, of the files in a tree, or of made-up names."""
    from shoal.data import find_source
    from shoal.data.file_stats import stat_files
    from shoal.data.listing import Listing, Names, source_digest
    from shoal.features import EncoderSpec
    from shoal.features.embedded import Header
    from shoal.features.store import Store, write_links

    if tree is None:
        names = Names(f"part {row // 20_000:04}/IMG_{row:08}.jpg" for row in range(n))
        listing, images, source = Listing(names, np.full(n, -1), (), lambda: iter(())), "", None
    else:
        source = find_source(tree)
        listing = source.listing()
        images = source_digest(source, listing)
    header = Header(EncoderSpec("timm", "tiny", digest="seed 0"), n, d, 64, images, listing.classes)
    draw = np.random.default_rng(0)
    centers = draw.standard_normal((GROUPS, d), np.float32) / d**0.5
    thumbnails = _smooth(draw, _CHUNK)
    with Store.begin(folder, header, listing) as store:
        for start in range(0, n, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, n))
            stats = np.full((len(rows), 3), -1) if source is None else stat_files(listing.files, rows)
            columns = {"rows.i64": rows, "looks.i64": stats, **_drawn(draw, centers, thumbnails, rows)}
            store.append_columns({name: np.ascontiguousarray(x).reshape(len(rows), -1) for name, x in columns.items()})
        store.commit(n, 64)
    write_links(folder, np.zeros((0, 2), np.int64))


def _drawn(
    draw: np.random.Generator, centers: NDArray[np.float32], thumbnails: NDArray[np.uint8], rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Features, sketches and fingerprints of some rows."""
    from shoal.data.sketch import SKETCH

    n, d = len(rows), centers.shape[1]
    features = centers[draw.integers(0, len(centers), n)] + draw.standard_normal((n, d), np.float32) * SPREAD / d**0.5
    records = np.zeros(n, SKETCH)
    records["luma"] = thumbnails[:n] // 2 + thumbnails[draw.permutation(len(thumbnails))[:n]] // 2
    records["chroma"] = draw.integers(100, 156, (n, 2, 4, 4))
    records["width"], records["height"], records["bytes"], records["sharpness"] = 640, 480, 90_000, 1
    copied = np.flatnonzero(draw.random(n - 1) < COPIES) + 1
    features[copied] = features[copied - 1] + 0.01 * draw.standard_normal((len(copied), d), np.float32) / d**0.5
    records[copied] = records[copied - 1]
    numbers = rows.copy()
    same = np.flatnonzero(draw.random(n - 1) < COPIES) + 1
    features[same], records[same], numbers[same] = features[same - 1], records[same - 1], numbers[same - 1]
    fingerprints = np.stack([_mixed(2 * numbers), _mixed(2 * numbers + 1)], 1)
    return {"features.f32": features, "sketches.bin": records, "fingerprints.bin": fingerprints}


def _mixed(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers whose bits look random: splitmix64 (Steele, Lea and Flood 2014)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _smooth(draw: np.random.Generator, n: int) -> NDArray[np.uint8]:
    """Grey thumbnails of few frequencies, as those of photos are: none is like another."""
    small = torch.from_numpy(draw.random((n, 1, 6, 6), np.float32))
    luma = torch.nn.functional.interpolate(small, size=16, mode="bicubic")[:, 0]
    return (255 * luma.clamp(0, 1)).round().to(torch.uint8).numpy()


STAGES = {
    "fit": "shoal.results.cluster_images._fitted",
    "centres": "shoal.results.cluster_images.cluster_centers",
    "calibration": "shoal.results.finish.fit_calibration",
    "map": "shoal.results.finish.map_positions",
    "assignments": "shoal.results.finish.assign_rows",
    "tables": "shoal.results.finish._write_tables",
    "equal files": "shoal.results.finish.first_of_each",
    "neighbours and copies": "shoal.results.finish._copies",
    "duplicates": "shoal.results.finish.duplicates",
    "outliers": "shoal.results.finish.outliers",
    "atlas": "shoal.results.finish.write_atlas",
    "report": "shoal.results.finish.write_page",
}
"""What a clustering does, in this order, and the function that does it, as its caller knows it."""


@contextmanager
def _watched(memory: Memory, figures: dict[str, dict[str, float]], left_out: Sequence[str]) -> Iterator[None]:
    """Measure each stage where its function is called."""
    with ExitStack() as stack:
        for stage, path in ((stage, path) for stage, path in STAGES.items() if stage not in left_out):
            module, _, name = path.rpartition(".")
            __import__(module)
            stack.enter_context(
                mock.patch(path, _measuring(getattr(sys.modules[module], name), memory, figures, stage))
            )
        yield


def _measuring(
    work: Callable[..., Any], memory: Memory, figures: dict[str, dict[str, float]], stage: str
) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        with measured(memory, figures.setdefault(stage, {})):
            return work(*args, **options)

    return run


LEFT_OUT: dict[str, Callable[..., Any]] = {
    "map": lambda features, **_: torch.zeros(1, 2).expand(len(features), 2),
    "neighbours and copies": lambda *_: (Pairs.none(), None),
}
"""What stands for stages that take longest, where they are not measured."""


def cluster(
    folder: Path, tree: Path | None, k: int, method: str, left_out: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Cluster the rows of ``folder / features`` as ``shoal cluster`` does after embedding, stage by stage."""
    from shoal.clustering import MiniBatchKMeans, build_clusterer
    from shoal.features import open_embedded
    from shoal.folder import ResultFolder
    from shoal.mapped import release, scratch
    from shoal.progress import Progress
    from shoal.results import cluster_images
    from shoal.results.inputs import Inputs

    _warm_up()
    memory, figures = Memory(), dict[str, dict[str, float]]()
    whole: dict[str, float] = {}
    with measured(memory, whole):
        embedded = open_embedded(folder / "features")
        draw = torch.Generator().manual_seed(0)

        def pictures(index: torch.Tensor, edge: int) -> torch.Tensor:
            found = scratch((len(index), 3, edge, edge), torch.uint8)
            for part in torch.split(found, 1024):
                part.random_(256, generator=draw)
            release(found)
            return found

        kept = (embedded.features, embedded.ids, "images", str(tree or folder), "", embedded, embedded.spec)
        inputs = Inputs(*kept, str((folder / "features").resolve()), pictures)

        def build(*args: Any, **options: Any) -> Any:
            if method == "minibatch":
                return MiniBatchKMeans(k, metric=options["metric"], random_state=options["seed"])
            return build_clusterer(*args, **options)

        with ExitStack() as stack:
            for stage in left_out:
                stack.enter_context(mock.patch(STAGES[stage], LEFT_OUT[stage]))
            stack.enter_context(_watched(memory, figures, left_out))
            stack.enter_context(mock.patch.object(cluster_images, "build_clusterer", build))
            result = ResultFolder(folder)
            outcome = cluster_images.cluster(inputs, k, "kmeans", "cosine", 0, result, Progress())
    assert outcome is not None  # the only process is the first
    found = {"duplicates": outcome.n_duplicates, "outliers": outcome.n_outliers, "clusters": outcome.n_clusters}
    peaks = {name: max(each[name] for each in figures.values()) for name in ("MB", "with maps MB")}
    return {**figures, "all": {**whole, **peaks, **found}, "files": _sizes(folder)}


def _warm_up() -> None:
    """Load all libraries, which are not counted, and start their pools of threads and memory."""
    import umap  # noqa: F401 - part of what a start may load

    from shoal.clustering import KMeans, map_positions
    from shoal.clustering.agreement import spectral_clusters
    from shoal.report import write_report  # noqa: F401

    x = torch.randn(200, 8)
    KMeans(3).fit(x)
    map_positions(x, metric="cosine", seed=0)
    spectral_clusters(x, 3, "cosine", 0)


def _sizes(folder: Path) -> dict[str, float]:
    """Megabytes of what a clustering leaves."""
    files = {path.name: path for path in (*folder.iterdir(), *(folder / "features").iterdir()) if path.is_file()}
    return {name: round(path.stat().st_size / 1e6, 3) for name, path in sorted(files.items())}


def command(words: list[str]) -> dict[str, float]:
    """Run a command of shoal in this process."""
    from shoal.cli.main import main

    _warm_up()
    memory, figures = Memory(), dict[str, float]()
    with measured(memory, figures), redirect_stdout(io.StringIO()):
        figures["exit"] = main(words) or 0
    return figures


def part(name: str, n: int) -> dict[str, float]:
    """Measure one thing that is done for each of n images, with the numbers of the others in scratch files."""
    from shoal.clustering import cells
    from shoal.data.equal import equal_groups, first_of_each
    from shoal.data.listing import Names
    from shoal.mapped import release, released, scratch
    from shoal.report import sample_of_page
    from shoal.results.outliers import outliers
    from shoal.results.representatives import representatives
    from shoal.results.rows import Assignments
    from shoal.types import Clustering

    found = Assignments.blank(n, scratch((n,), torch.int64), None)
    prints, features = scratch((n, 16), torch.uint8), scratch((n, 8), torch.float32)
    draw = np.random.default_rng(0)
    columns = (found.labels, found.confidence, found.distance, prints, features)
    for rows in released((slice(at, min(at + _CHUNK, n)) for at in range(0, n, _CHUNK)), *columns):
        size = rows.stop - rows.start
        found.labels[rows] = torch.from_numpy(draw.integers(0, GROUPS, size))
        found.confidence[rows], found.distance[rows] = torch.from_numpy(draw.random((2, size), np.float32))
        numbers = np.arange(rows.start, rows.stop)
        numbers[draw.random(size) < COPIES] //= 2
        prints[rows] = torch.from_numpy(np.stack([_mixed(2 * numbers), _mixed(2 * numbers + 1)], 1).view(np.uint8))
        features[rows] = torch.from_numpy(draw.standard_normal((size, 8), np.float32))
    release(*columns)
    memory, figures = Memory(), dict[str, float]()
    with measured(memory, figures):
        if name == "names":
            figures["names"] = len(Names(f"part {row // 20_000:04}/IMG_{row:08}.jpg" for row in range(n)))
        elif name == "equal files":
            figures["groups"] = sum(1 for _ in equal_groups(first_of_each(prints)))
        elif name == "outliers":
            figures["outliers"] = len(outliers(torch.arange(n), found.distance, found.labels))
        elif name == "tree of cells":
            n_cells = -(-n // cells.CELL_ROWS)
            tree = cells._tree_of(_Made(), torch.arange(n), n_cells, torch.Generator().manual_seed(0))
            figures["cells"] = len(tree[0])
        elif name == "representatives":
            figures["representatives"] = len(representatives(features, found))
        else:
            clustering = Clustering(found.labels, torch.zeros(GROUPS, 8), found.distance)
            figures["shown"] = int(sample_of_page(clustering, found.confidence, 0).sum())
    return figures


PARTS = ("names", "equal files", "tree of cells", "outliers", "representatives", "images of the page")


class _Made:
    """Thumbnails that are made of their numbers, for what asks for some of many rows."""

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Of 257 columns, as those of a search by looks."""
        numbers = rows.numpy()[:, None] * 257 + np.arange(257)
        return torch.from_numpy((_mixed(numbers) >> np.uint64(40)).astype(np.float32) / 2**24 - 0.5).half()

    def release(self) -> None:
        """Nothing is mapped."""

"""What ``suggest_k`` says of sets whose number of groups is known.

    python benchmarks/suggest_k.py [--seeds 0 1] [--only digits blobs] [--mnist FOLDER] [--files features.npy=10]

Prints for each set and seed the known k, the best k, the interval, whether structure is clear, and seconds. ``--only``
takes the sets whose names begin so. The known numbers are looked at here alone: no setting is fitted to them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sklearn.datasets
import torch

from shoal.clustering.rows import Metric
from shoal.clustering.suggest.suggest import suggest_k
from shoal.data import to_images

Rows = npt.NDArray[np.float32]
Known = tuple[str, int, Metric, Callable[[], Rows]]
"""Name, number of groups, metric, and what makes the rows."""


def blobs(k: int, d: int, distance: float) -> Rows:
    """Gaussians of deviation 0.7 to 1.3, their centres about ``distance`` apart, 80 to 320 rows each."""
    rng = np.random.default_rng(1000 * k + d)
    centers = rng.standard_normal((k, d)) * distance / np.sqrt(2 * d)
    sizes = np.linspace(1, 4, k) * 80
    group = np.repeat(np.arange(k), sizes.astype(int))
    rows = centers[group] + rng.uniform(0.7, 1.3, k)[group, None] * rng.standard_normal((len(group), d))
    return np.asarray(rows, dtype=np.float32)


def crescents(pairs: int) -> Rows:
    """Two moons that hold each other, side by side with other such pairs."""
    rows = [sklearn.datasets.make_moons(1000, noise=0.08, random_state=i)[0] + [3.5 * i, 0] for i in range(pairs)]
    return np.concatenate(rows).astype(np.float32)


def cloud(d: int, *, uniform: bool = False) -> Rows:
    """A single Gaussian, or a cube full of rows."""
    rng = np.random.default_rng(d)
    rows = rng.uniform(size=(3000, d)) if uniform else rng.standard_normal((3000, d))
    return rows.astype(np.float32)


def table(load: Callable[[], dict[str, npt.NDArray[np.float64]]]) -> Rows:
    """One of scikit-learn's tables, its columns brought to deviation 1."""
    rows: npt.NDArray[np.float64] = load()["data"]
    return np.asarray((rows - rows.mean(0)) / rows.std(0), dtype=np.float32)


def digits() -> Rows:
    """Pixels of scikit-learn's digits."""
    return sklearn.datasets.load_digits().data.astype(np.float32)  # type: ignore[no-any-return]


def mnist(folder: Path) -> Rows:
    """Pixels of MNIST, 70 000 × 784."""
    return np.asarray(to_images(str(folder)).pixels[:, 0].flatten(1) / 255)


def known_sets(folder: Path | None, files: list[str]) -> Iterator[Known]:
    """All sets, the quick ones first."""
    yield "iris", 3, "euclidean", lambda: table(sklearn.datasets.load_iris)
    yield "wine", 3, "euclidean", lambda: table(sklearn.datasets.load_wine)
    yield "breast cancer", 2, "euclidean", lambda: table(sklearn.datasets.load_breast_cancer)
    yield "digits", 10, "euclidean", digits
    yield "digits cosine", 10, "cosine", digits
    for k, d, distance in ((3, 16, 8), (7, 64, 10), (20, 16, 8), (20, 128, 12), (50, 64, 10), (50, 128, 12)):
        yield f"blobs {k} in {d}", k, "euclidean", lambda k=k, d=d, far=distance: blobs(k, d, far)  # type: ignore[misc]
    yield "blobs 12 overlap", 12, "euclidean", lambda: blobs(12, 32, 5)
    for pairs in (1, 3):
        yield f"crescents {2 * pairs}", 2 * pairs, "euclidean", lambda pairs=pairs: crescents(pairs)  # type: ignore[misc]
    for d in (2, 16, 64):
        yield f"one cloud in {d}", 1, "euclidean", lambda d=d: cloud(d)  # type: ignore[misc]
    yield "one cube in 8", 1, "euclidean", lambda: cloud(8, uniform=True)
    yield "one cloud cosine", 1, "cosine", lambda: cloud(32)
    for file, _, k_text in (each.rpartition("=") for each in files):
        yield Path(file).stem, int(k_text), "cosine", lambda file=file: np.load(file)  # type: ignore[misc]
    if folder is not None:
        yield "mnist", 10, "euclidean", lambda: mnist(folder)
        yield "mnist cosine", 10, "cosine", lambda: mnist(folder)


def main() -> None:
    """Run all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--files", nargs="+", default=[])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'set':<18} {'shape':>13} known  best  interval  clear  seconds  next", flush=True)
    for name, k, metric, make in known_sets(args.mnist, args.files):
        if not name.startswith(tuple(args.only)):
            continue
        rows = make()
        for seed in args.seeds:
            start = time.perf_counter()
            found = suggest_k(rows, metric=metric, seed=seed)
            seconds = time.perf_counter() - start
            low, high = found.interval
            following = " ".join(str(each.k) for each in found.candidates[1:4])
            shape = f"{len(rows)}×{rows.shape[1]}"
            line = (
                f"{name:<18} {shape:>13} {k:>5} {found.k:>5}  {f'{low}–{high}':<8}  {'yes' if found.clear else 'no':<5}"
            )
            print(f"{line} {seconds:8.1f}  {following}", flush=True)


if __name__ == "__main__":
    main()

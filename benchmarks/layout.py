"""Seconds that a map takes, in a process of its own with all imports, and how faithful it is; UMAP beside it.

    python benchmarks/layout.py

Rows: the 1 797 digits as 64 pixels, the same by random features in 256 dimensions, and 20 000 made-up rows in 384
dimensions, in 60 groups of 12 dimensions each with noise. Trustworthiness (Venna and Kaski 2001) and the share of the
ten nearest that stay among the ten nearest are those of at most 2 000 rows, and take no labels.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness

from shoal.clustering import nearest_neighbours

N_NEIGHBOURS = 10
N_JUDGED = 2000

LOAD = "import sys, torch; x = torch.load(sys.argv[1], mmap=True); "
METHODS = {
    "map_positions": LOAD
    + "from shoal.clustering import map_positions; y = map_positions(x, metric='euclidean', seed=0)",
    "UMAP": LOAD
    + "from umap import UMAP; y = torch.from_numpy(UMAP(random_state=0, n_jobs=1).fit_transform(x.numpy()))",
}
SAVE = "; torch.save(y, sys.argv[2])"


def digits(n_features: int | None = None) -> torch.Tensor:
    """The digits, as pixels or by random features with a rectifier."""
    pixels = torch.from_numpy(load_digits().data).float()
    if n_features is None:
        return pixels
    return (pixels @ torch.randn(64, n_features, generator=torch.Generator().manual_seed(0))).relu()


def made_up(n: int = 20_000, d: int = 384, k: int = 60, inner: int = 12) -> torch.Tensor:
    """Groups that differ in direction and in the few dimensions that they fill, at unit length."""
    g = torch.Generator().manual_seed(0)
    centers, axes = torch.randn(k, d, generator=g), torch.randn(k, inner, d, generator=g) / 2
    labels = torch.randint(k, (n,), generator=g)
    rows = torch.stack([torch.randn(inner, generator=g) @ axes[label] for label in labels])
    return torch.nn.functional.normalize(centers[labels] + rows + 0.3 * torch.randn(n, d, generator=g))


def judge(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Trustworthiness and overlap of the ten nearest."""
    some = slice(None, None, -(-len(x) // N_JUDGED))
    kept = [nearest_neighbours(rows, N_NEIGHBOURS + 1, "euclidean", rows[some])[0] for rows in (x, y)]
    own = torch.arange(len(x))[some, None]
    same = (kept[0][:, :, None] == kept[1][:, None]).any(2) & (kept[0] != own)
    return trustworthiness(x[some].numpy(), y[some].numpy(), n_neighbors=N_NEIGHBOURS), float(
        same.sum(1).float().mean()
    ) / N_NEIGHBOURS


def main() -> None:
    """Print a line for each method and set of rows."""
    for name, x in (("digits, 64-d", digits()), ("digits, 256-d", digits(256)), ("20 000 x 384", made_up())):
        for method, code in METHODS.items():
            with tempfile.TemporaryDirectory() as folder:
                files = [str(Path(folder) / each) for each in ("x.pt", "y.pt")]
                torch.save(x, files[0])
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run([sys.executable, "-c", code + SAVE, *files], check=True)
                seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                trust, overlap = judge(x, torch.load(files[1]))
            print(f"{name:14} {method:14} {seconds:6.1f} s  CPU {cpu:6.1f} s  {trust:.3f}  {overlap:.3f}", flush=True)


if __name__ == "__main__":
    main()

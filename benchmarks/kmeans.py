"""k-means of shoal, scikit-learn and faiss on the same features, turn by turn, in one process.

    python benchmarks/kmeans.py [--repeats 3] [--threads 2] [--large] [--save]

For each case it prints the median seconds of each side, how many times faster shoal is, the ratio of the inertias
(below 1: shoal's is lower), the memory that a fit of shoal takes above the data, and how its time compares with that of
the products alone: all its iterations, done plainly at the rate at which this machine multiplies float32 matrices.
scikit-learn and shoal run until they converge, faiss does the iterations it is told to, on all rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from shoal.clustering import KMeans

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What is clustered, and how."""

    n: int
    d: int
    k: int
    n_init: int
    max_iter: int
    """For shoal and scikit-learn."""
    faiss_iter: int
    scikit_learn: bool = True


CASES = (Case(60_000, 256, 10, 10, 300, 50), Case(60_000, 256, 100, 1, 300, 50))
LARGE = Case(1_000_000, 128, 1000, 1, 20, 20, scikit_learn=False)
SPREADS = {"clustered": 0.5, "overlapping": 4.0}


@dataclass(frozen=True)
class Run:
    """One fit."""

    seconds: float
    inertia: float
    n_iter: int


def features(n: int, d: int, k: int, spread: float) -> Matrix:
    """Gaussian clusters about random centres; a large spread makes them overlap."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((k, d), dtype=np.float32)
    labels = rng.integers(k, size=n)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows *= spread
    for start in range(0, n, 65536):  # one matrix, no copies: the large case is half a gigabyte
        rows[start : start + 65536] += centers[labels[start : start + 65536]]
    return rows


def shoal_run(rows: Any, case: Case, seed: int) -> Run:
    """A fit of shoal, on the device of the rows."""
    start = time.perf_counter()
    model = KMeans(case.k, n_init=case.n_init, max_iter=case.max_iter, random_state=seed)
    model.fit(rows)
    return Run(time.perf_counter() - start, model.inertia_, model.n_iter_)


def scikit_learn_run(rows: Matrix, case: Case, seed: int) -> Run:
    """A fit of scikit-learn, on the CPU."""
    import sklearn.cluster

    start = time.perf_counter()
    model = sklearn.cluster.KMeans(case.k, n_init=case.n_init, max_iter=case.max_iter, random_state=seed).fit(rows)
    return Run(time.perf_counter() - start, float(model.inertia_), model.n_iter_)


def faiss_run(rows: Matrix, case: Case, seed: int) -> Run:
    """A fit of faiss; it would take a part of the rows if it were not told to take all."""
    import faiss

    start = time.perf_counter()
    model = faiss.Kmeans(
        case.d, case.k, niter=case.faiss_iter, nredo=case.n_init, seed=seed + 1, max_points_per_centroid=len(rows)
    )
    model.train(rows)
    assert model.obj is not None
    return Run(time.perf_counter() - start, float(model.obj[-1]), case.faiss_iter)


def extra_memory(case: Case, spread: float, threads: int) -> float:
    """Peak memory of a fit above what data and libraries take before it, as a share of the data; in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_extra_memory, (case, spread, threads))


def _extra_memory(case: Case, spread: float, threads: int) -> float:
    torch.set_num_threads(threads)
    rows: Matrix = features(case.n, case.d, case.k, spread)
    few = replace(case, max_iter=3)  # later updates take no more
    shoal_run(rows[:5000], replace(few, k=3), 0)  # loads what a first fit loads
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    shoal_run(rows, few, 0)
    return (_status("VmHWM") - before) * 1024 / rows.nbytes


def _status(name: str) -> int:
    """A line of Linux's account of this process, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def product_rate(case: Case, device: torch.device) -> float:
    """FLOP per second of float32 products of rows and centres, in chunks as large as a cache likes them."""
    x, c = torch.randn(4096, case.d, device=device), torch.randn(case.k, case.d, device=device)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        product = x @ c.T
        float(product[0, 0])
        seconds.append(time.perf_counter() - start)
    return 2 * x.numel() * case.k / statistics.median(seconds)


def compare(case: Case, spread: float, repeats: int, device: torch.device) -> dict[str, list[Run]]:
    """Runs of all sides in turn, a seed each time."""
    rows = features(case.n, case.d, case.k, spread)
    mine = rows if device.type == "cpu" else torch.from_numpy(rows).to(device)
    sides: dict[str, Callable[[int], Run]] = {"shoal": lambda seed: shoal_run(mine, case, seed)}
    if case.scikit_learn:
        sides["scikit-learn"] = lambda seed: scikit_learn_run(rows, case, seed)
    sides["faiss"] = lambda seed: faiss_run(rows, case, seed)
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for seed in range(repeats):
        for name, run in sides.items():
            runs[name].append(run(seed))
    return runs


def summary(case: Case, runs: dict[str, list[Run]], rate: float) -> dict[str, float]:
    """Medians and ratios."""
    seconds, inertia = (
        {name: statistics.median(getattr(run, field) for run in each) for name, each in runs.items()}
        for field in ("seconds", "inertia")
    )
    n_iter = statistics.median(run.n_iter for run in runs["shoal"])
    found = {"seconds": seconds["shoal"], "n_iter": n_iter}
    for name in runs:
        if name != "shoal":
            found[f"times faster than {name}"] = seconds[name] / seconds["shoal"]
            found[f"inertia over {name}"] = inertia["shoal"] / inertia[name]
    plain = 2 * case.n * case.d * case.k * n_iter / rate
    return found | {"seconds of the products alone": plain, "share of that rate": plain / seconds["shoal"]}


def main() -> None:
    """Run all cases."""
    from command import keep

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true", help="a million rows and a thousand clusters as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write results/kmeans.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    with threadpool_limits(args.threads):
        for name, spread in SPREADS.items():
            for case in (*CASES, LARGE) if args.large else CASES:
                runs = compare(case, spread, 1 if case is LARGE else args.repeats, torch.device(args.device))
                found = summary(case, runs, product_rate(case, torch.device(args.device)))
                if args.device == "cpu":
                    found["memory above the data"] = extra_memory(case, spread, args.threads)
                print(f"{name}, {case.n} x {case.d}, k = {case.k}, {case.n_init} restarts")
                for key, value in found.items():
                    print(f"    {key:<32} {value:8.3f}", flush=True)
                results.append({"data": name, **asdict(case), **found})
    if args.save:
        keep("kmeans", {"threads": args.threads, "device": args.device, "cases": results})


if __name__ == "__main__":
    main()

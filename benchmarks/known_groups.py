"""Sets of rows whose number of groups is known, for ``benchmarks/suggest_k.py``: the kinds that people bring.

Each kind is a function of a random generator, which also draws the number of groups, dimensions, sizes and noise, so
another seed gives another set of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import sklearn.datasets

Rows = npt.NDArray[np.float32]
Made = tuple[Rows, int]
"""Rows (n, d) and their number of groups."""
Rng = np.random.Generator


def blobs(
    rng: Rng, d: int, distance: float, sizes: list[int], deviations: npt.NDArray[np.float64] | float = 1.0
) -> Rows:
    """Gaussian groups, their centres about ``distance`` apart."""
    k = len(sizes)
    centres = rng.normal(size=(k, d)) * distance / np.sqrt(2 * d)
    group = np.repeat(np.arange(k), sizes)
    scale = np.broadcast_to(deviations, k)[group, None]
    return np.asarray(centres[group] + scale * rng.normal(size=(len(group), d)), np.float32)


def even(rng: Rng) -> Made:
    """Few groups of one size."""
    k = int(rng.integers(2, 13))
    return blobs(rng, int(rng.integers(5, 41)), rng.uniform(9, 13), [int(rng.integers(60, 300))] * k), k


def many_small(rng: Rng) -> Made:
    """Many groups of few rows: more than √n."""
    k = int(rng.integers(25, 70))
    return blobs(rng, int(rng.integers(14, 50)), rng.uniform(11, 14), [int(rng.integers(18, 45))] * k), k


def very_many(rng: Rng) -> Made:
    """About a hundred groups."""
    k = int(rng.integers(80, 180))
    return blobs(rng, int(rng.integers(20, 50)), rng.uniform(11, 14), [int(rng.integers(30, 70))] * k), k


def imbalanced(rng: Rng) -> Made:
    """Sizes that shrink by a constant factor, down to 15 rows or so."""
    k = int(rng.integers(4, 12))
    shrink = rng.uniform(0.5, 0.8)
    sizes = [max(15, int(rng.integers(600, 1500) * shrink**i)) for i in range(k)]
    return blobs(rng, int(rng.integers(8, 33)), rng.uniform(10, 14), sizes), k


def one_large(rng: Rng) -> Made:
    """One group of most rows and one or two small ones."""
    sizes = [2000, int(rng.integers(60, 300)), int(rng.integers(15, 40))][: int(rng.integers(2, 4))]
    return blobs(rng, int(rng.integers(4, 20)), rng.uniform(13, 17), sizes), len(sizes)


def overlapping(rng: Rng) -> Made:
    """Groups that touch."""
    k = int(rng.integers(5, 25))
    return blobs(rng, int(rng.integers(6, 20)), rng.uniform(6.5, 8), [int(rng.integers(70, 200))] * k), k


def hard_overlapping(rng: Rng) -> Made:
    """Many groups that touch."""
    k = int(rng.integers(8, 25))
    return blobs(rng, int(rng.integers(7, 12)), rng.uniform(6.7, 7.7), [int(rng.integers(60, 120))] * k), k


def hard_small(rng: Rng) -> Made:
    """Many groups of few rows, less far apart."""
    k = int(rng.integers(25, 70))
    return blobs(rng, int(rng.integers(14, 36)), rng.uniform(10.5, 12.5), [int(rng.integers(15, 40))] * k), k


def stretched(rng: Rng) -> Made:
    """Groups that are several times as long as wide, in any direction."""
    k, d = int(rng.integers(3, 10)), int(rng.integers(3, 10))
    rows = blobs(rng, d, rng.uniform(15, 20), [int(rng.integers(80, 250))] * k)
    for part in np.split(rows, k):
        shape = rng.normal(size=(d, d)) * 0.3 + np.eye(d)
        shape[0] *= rng.uniform(2, 3)
        part[:] = (part - part.mean(0)) @ shape.T + part.mean(0)
    return rows, k


def overlapping_pair(rng: Rng) -> Made:
    """Groups longer than wide, of which two overlap."""
    k, d, n = int(rng.integers(3, 9)), int(rng.integers(3, 12)), int(rng.integers(80, 200))
    parts = np.split(blobs(rng, d, rng.uniform(15, 20), [n] * k).astype(np.float64), k)
    direction = rng.normal(size=d)
    parts[1] += parts[0].mean(0) - parts[1].mean(0) + direction / np.linalg.norm(direction) * rng.uniform(2, 3.5)
    for part in parts:
        shape = rng.normal(size=(d, d)) * 0.3 + np.eye(d)
        shape[0] *= rng.uniform(1.5, 3)
        part[:] = (part - part.mean(0)) @ shape.T + part.mean(0)
    return np.concatenate(parts).astype(np.float32), k


def touching(rng: Rng) -> Made:
    """Groups in a few columns in a row, each touching the next, and others far away."""
    chain, far, d, n = int(rng.integers(2, 4)), int(rng.integers(1, 5)), int(rng.integers(2, 6)), 150
    along = np.zeros((chain, d))
    along[:, 0] = np.arange(chain) * rng.uniform(2.8, 3.6)
    away = np.zeros((far, d))
    away[:, 1] = 15 * np.arange(1, far + 1)
    centres = np.concatenate([along, away])
    return (np.repeat(centres, n, 0) + rng.normal(size=(n * len(centres), d))).astype(np.float32), len(centres)


def sticks(rng: Rng) -> Made:
    """Long groups side by side, ten times as long as wide."""
    k, d, n = int(rng.integers(2, 6)), int(rng.integers(2, 8)), int(rng.integers(120, 300))
    rows = rng.normal(size=(k, n, d))
    rows[:, :, 0] *= rng.uniform(6, 12)
    rows[:, :, 1] += rng.uniform(5.5, 8) * np.arange(k)[:, None]
    return rows.reshape(-1, d).astype(np.float32), k


def groups_of_categories(rng: Rng) -> Made:
    """Very few different rows, each often, that differ in one column within a group and in most between groups."""
    k, d = int(rng.integers(2, 5)), 8
    centres = np.eye(k, d) * 6 + rng.integers(0, 2, (k, d))
    variants = np.eye(d)[: int(rng.integers(2, 4))]
    rows = np.concatenate([centre + variants for centre in centres]).astype(np.float32)
    return np.repeat(rows, rng.integers(20, 60, len(rows)), 0), k


def nested(rng: Rng) -> Made:
    """Groups of groups: the small ones count."""
    outer, inner, d = int(rng.integers(2, 5)), int(rng.integers(3, 5)), int(rng.integers(6, 20))
    centres = rng.normal(size=(outer, 1, d)) * 55 / np.sqrt(2 * d) + rng.normal(size=(outer, inner, d)) * 10 / np.sqrt(
        2 * d
    )
    centres = centres.reshape(-1, d)
    n = int(rng.integers(60, 120))
    return np.asarray(np.repeat(centres, n, 0) + rng.normal(size=(n * len(centres), d)), np.float32), len(centres)


def moons(rng: Rng) -> Made:
    """Pairs of crescents that hold each other."""
    pairs = int(rng.integers(1, 3))
    parts = [
        sklearn.datasets.make_moons(
            int(rng.integers(500, 1200)), noise=rng.uniform(0.04, 0.08), random_state=int(rng.integers(99))
        )[0]
        + [4.0 * i, 0]
        for i in range(pairs)
    ]
    return np.concatenate(parts).astype(np.float32), 2 * pairs


def rings(rng: Rng) -> Made:
    """Circles about one point."""
    k = int(rng.integers(2, 4))
    radius = np.repeat(np.arange(1, k + 1) * rng.uniform(0.9, 1.1), 500)
    angle = rng.uniform(0, 2 * np.pi, len(radius))
    rows = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + rng.normal(
        size=(len(radius), 2)
    ) * rng.uniform(0.04, 0.09)
    return rows.astype(np.float32), k


def threads(rng: Rng) -> Made:
    """Curves in space that do not meet."""
    k = int(rng.integers(2, 5))
    along = rng.uniform(0, 3 * np.pi, (k, 400))
    angle = 2 * np.pi * np.arange(k)[:, None] / k
    curves = np.stack([3 * np.cos(along / 3 + angle), 3 * np.sin(along / 3 + angle), along], 2)
    rows = curves.reshape(-1, 3) + rng.normal(size=(400 * k, 3)) * 0.12
    return rows.astype(np.float32), k


def noise_columns(rng: Rng) -> Made:
    """Groups in a few columns among many that say nothing."""
    k = int(rng.integers(3, 9))
    rows = blobs(rng, int(rng.integers(5, 10)), rng.uniform(12, 14), [int(rng.integers(80, 200))] * k)
    return np.concatenate([rows, rng.normal(size=(len(rows), int(rng.integers(50, 200))))], 1).astype(np.float32), k


def noise_rows(rng: Rng) -> Made:
    """Groups and a tenth of rows anywhere."""
    k, d = int(rng.integers(4, 10)), int(rng.integers(4, 14))
    rows = blobs(rng, d, rng.uniform(11, 14), [int(rng.integers(100, 250))] * k)
    anywhere = rng.uniform(rows.min(0), rows.max(0), (len(rows) // 10, d))
    return np.concatenate([rows, anywhere]).astype(np.float32), k


def copies(rng: Rng) -> Made:
    """Each row several times."""
    k, times = int(rng.integers(3, 9)), int(rng.integers(2, 10))
    rows = blobs(rng, int(rng.integers(6, 20)), rng.uniform(9, 13), [int(rng.integers(25, 80))] * k)
    return np.repeat(rows, times, 0), k


def bursts(rng: Rng) -> Made:
    """Each row several times, nearly."""
    rows, k = copies(rng)
    return (rows + rng.uniform(0.02, 0.06) * rows.std(0).mean() * rng.normal(size=rows.shape)).astype(np.float32), k


def distinct(rng: Rng) -> Made:
    """Very few different rows, each often: categories as numbers."""
    k = int(rng.integers(4, 16))
    rows = np.unique(rng.integers(0, 4, size=(k, 6)), axis=0).astype(np.float32)
    return np.repeat(rows, rng.integers(20, 90, len(rows)), 0), len(rows)


def one_column(rng: Rng) -> Made:
    """Groups in a single column."""
    k = int(rng.integers(2, 7))
    centres = np.cumsum(rng.uniform(3.5, 8, k))
    sizes = rng.integers(100, 400, k)
    rows = np.repeat(centres, sizes) + rng.normal(size=sizes.sum()) * rng.uniform(0.3, 0.5)
    return rows[:, None].astype(np.float32), k


def two_columns(rng: Rng) -> Made:
    """Groups in the plane."""
    k = int(rng.integers(3, 9))
    centres: list[np.ndarray] = []
    while len(centres) < k:
        centre = rng.uniform(0, 9 * np.sqrt(k), 2)
        if all(np.linalg.norm(centre - other) > 7 for other in centres):
            centres.append(centre)
    rows = np.repeat(np.array(centres), int(rng.integers(80, 300)), 0)
    return (rows + rng.normal(size=rows.shape)).astype(np.float32), k


def widths(rng: Rng) -> Made:
    """Groups of which some are several times as wide as others."""
    k, d = int(rng.integers(3, 7)), int(rng.integers(3, 10))
    deviations = rng.choice([0.5, 1.0, 3.0], k)
    return blobs(rng, d, rng.uniform(20, 24), rng.integers(120, 400, k).tolist(), deviations), k


def heavy_tails(rng: Rng) -> Made:
    """Groups with rows far out."""
    k, d = int(rng.integers(3, 8)), int(rng.integers(5, 14))
    centres = rng.normal(size=(k, d)) * rng.uniform(13, 16) / np.sqrt(2 * d)
    group = np.repeat(np.arange(k), int(rng.integers(120, 250)))
    return (centres[group] + rng.standard_t(3, size=(len(group), d))).astype(np.float32), k


def outliers(rng: Rng) -> Made:
    """Groups, and a few rows hundreds of times as far out."""
    k = int(rng.integers(2, 7))
    rows = blobs(rng, int(rng.integers(4, 12)), rng.uniform(11, 13), [int(rng.integers(150, 300))] * k)
    rows[rng.choice(len(rows), int(rng.integers(1, 6)), replace=False)] *= 300
    return rows, k


def one_gaussian(rng: Rng) -> Made:
    """A single Gaussian."""
    return rng.normal(size=(int(rng.integers(300, 3000)), int(rng.integers(1, 60)))).astype(np.float32), 1


def one_correlated(rng: Rng) -> Made:
    """A single Gaussian whose variances fall as those of embeddings do."""
    d = int(rng.integers(20, 200))
    shape = np.arange(1, d + 1) ** -rng.uniform(0.4, 1.0)
    return (rng.normal(size=(int(rng.integers(500, 2500)), d)) * shape).astype(np.float32), 1


def one_cube(rng: Rng) -> Made:
    """A cube full of rows."""
    return rng.uniform(size=(int(rng.integers(400, 2500)), int(rng.integers(1, 9)))).astype(np.float32), 1


def one_tailed(rng: Rng) -> Made:
    """A single group with heavy tails, or of skewed columns."""
    shape = (int(rng.integers(400, 2000)), int(rng.integers(2, 20)))
    rows = rng.standard_t(3, size=shape) if rng.random() < 0.5 else rng.lognormal(0, 0.7, size=shape)
    return rows.astype(np.float32), 1


def one_curve(rng: Rng) -> Made:
    """A manifold of one or two dimensions, rolled up."""
    n = int(rng.integers(800, 2000))
    if rng.random() < 0.5:
        return sklearn.datasets.make_swiss_roll(n, noise=rng.uniform(0, 0.3), random_state=int(rng.integers(99)))[
            0
        ].astype(np.float32), 1
    return sklearn.datasets.make_s_curve(n, noise=rng.uniform(0, 0.1), random_state=int(rng.integers(99)))[0].astype(
        np.float32
    ), 1


KINDS: dict[str, Callable[[Rng], Made]] = {
    make.__name__: make
    for make in (
        *(even, many_small, very_many, imbalanced, one_large, overlapping, hard_overlapping, hard_small, stretched),
        *(overlapping_pair, touching, sticks, groups_of_categories),
        *(nested, moons, rings, threads, noise_columns, noise_rows, copies, bursts, distinct, one_column, two_columns),
        *(widths, heavy_tails, outliers, one_gaussian, one_correlated, one_cube, one_tailed, one_curve),
    )
}

"""How far shoal is from the published implementations, golden file by golden file.

    python -m tests.golden.parity        # writes docs/parity.md

Every check returns the largest deviation of a loss or score (absolute) and of a gradient or state (relative to the
largest value of its tensor); ``tests/golden/test_parity.py`` holds each to its bound.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.golden.compare import Deviation
from tests.golden.pieces import (
    cc,
    dcboost,
    emp_ssl,
    gmm,
    idc,
    info_nce_queue,
    kmeans_cosine,
    kmeans_euclidean,
    knn,
    lars,
    metrics,
    pcl_concentration,
    scattering,
    schedules,
    simclr,
    soft_centers,
    temi,
)
from tests.golden.steps import moco, pcl, propos, simsiam

LOSS_BOUND, STATE_BOUND = 1e-5, 1e-4

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"

CHECKS: dict[str, Callable[[], Deviation]] = {
    "propos_v1": lambda: propos("v1"),
    "propos_v2": lambda: propos("v2"),
    "prototype_scattering": scattering,
    "soft_centers": soft_centers,
    "nt_xent_t1.0": lambda: simclr("1.0"),
    "nt_xent_t0.2": lambda: simclr("0.2"),
    "simsiam": simsiam,
    "moco_symmetric": moco,
    "info_nce_queue": info_nce_queue,
    "pcl": pcl,
    "pcl_concentration": pcl_concentration,
    "cc": cc,
    "schedules": schedules,
    "lars": lars,
    "kmeans_euclidean": kmeans_euclidean,
    "kmeans_cosine": kmeans_cosine,
    "gmm_diag": lambda: gmm("diag"),
    "gmm_spherical": lambda: gmm("spherical"),
    "metrics_a": lambda: metrics("a"),
    "metrics_b": lambda: metrics("b"),
    "knn": knn,
    "idc": idc,
    "dcboost": dcboost,
    "emp_ssl": emp_ssl,
    "temi": temi,
}

HEAD = f"""\
# Parity

Written by `python -m tests.golden.parity`. Every file in `tests/golden/` holds inputs and outputs of one piece of the
published implementations, computed once by them on a CPU in float32. `pytest tests/golden` holds each row to the
bounds: {LOSS_BOUND:g} for losses and scores (absolute, where the row does not say relative), {STATE_BOUND:g} for
gradients, weights, queues and features (relative to the largest value of the tensor). BYOL has no row of its own: it is
ProPos without noise and scattering, in the published code as here (`tests/methods/test_propos.py`).

| golden file | loss or score | gradient or state | what is compared |
|---|---|---|---|
"""


def page() -> str:
    """The table as Markdown."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    rows = []
    for name, check in CHECKS.items():
        found = check()
        rows.append(f"| `{name}` | {shown(found.loss)} | {shown(found.state)} | {found.note} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)

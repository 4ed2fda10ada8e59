"""The GPU sheet's other parts: what the device can do at most, augmentation, k-means and the E-step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from augment import Views, kornia_views, shoal_views
from gpu_sheet import Figures, Sheet, float32_products, forward_flops, in_a_line, percent
from interleaved import seconds_of
from kmeans import SPREADS, Case, shoal_run
from shoal.methods import embedding
from shoal.progress import Progress
from shoal.training.loop import e_step
from step import config_of, noise_run

CALLS = 10
"""Calls that are timed as one."""


def peaks(sheet: Sheet) -> None:
    """Best rates of large products and of a large copy: what shares are taken of."""
    found: Figures = {}
    for name, precision, dtype in (
        ("float32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bfloat16", "highest", torch.bfloat16),
    ):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        found[name] = max(product_rate(sheet, n, dtype) for n in sheet.sizes.matrices)
        torch.set_float32_matmul_precision(before)
        print(f"    {name:<9}{found[name] / 1e12:9.2f} TFLOP/s", flush=True)
    source = torch.ones(sheet.sizes.copied // 4, device=sheet.device)
    copy = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / sheet.seconds(lambda: copy.copy_(source), CALLS, 3)
    print(f"    copy     {found['copy'] / 1e9:9.1f} GB/s, read and written", flush=True)
    sheet.keep(found)


def product_rate(sheet: Sheet, n: int, dtype: torch.dtype) -> float:
    """FLOP per second of a product of two square matrices."""
    a, b = (torch.randn(n, n, device=sheet.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / sheet.seconds(lambda: torch.mm(a, b, out=out), 4, 3)


def augmentation(sheet: Sheet) -> None:
    """Two views of each image: images per second, and bytes that must be read and written at least."""
    rows: list[Figures] = []
    for side, batch, blur_p in sheet.sizes.views:
        pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=sheet.device)
        makers = {"shoal": shoal_views(side, blur_p, sheet.device.type)}
        if find_spec("kornia"):
            makers["kornia"] = kornia_views(side, blur_p)
        turns = {name: partial(_again, views, pixels) for name, views in makers.items()}
        for name, seconds in seconds_of(turns, sheet.sizes.repeats, sheet.device).items():
            rate = CALLS * batch / seconds
            row: Figures = {"by": name, "side": side, "batch": batch, "blur_p": blur_p, "images_per_second": rate}
            traffic = 2 * (1 + 4) * pixels[0].numel()  # of each view, bytes read and floats written
            row["share_of_bandwidth"] = sheet.share(rate * traffic, "copy")
            print(
                f"    {name:<8}{batch:4} images of {side:3} px, blur {blur_p:.1f} {rate:10.0f} images/s"
                f"  {percent(row['share_of_bandwidth'])} of the bandwidth",
                flush=True,
            )
            rows.append(row)
            sheet.keep({"cases": rows})


def _again(views: Views, pixels: Tensor) -> None:
    for _ in range(CALLS):
        views(pixels)


def clustering(sheet: Sheet, cases: Sequence[Case], spreads: Sequence[str]) -> None:
    """Fits of k-means; shares are those of a plain iteration, which reads every row and has all distances."""
    rows: list[Figures] = []
    peak = float32_products(sheet, "products")
    for spread in spreads:
        for case in cases:
            data = clustered(case, SPREADS[spread], sheet.device)
            shoal_run(
                data[:5000], replace(case, k=min(case.k, 10), n_init=1, max_iter=3), 0
            )  # loads what a first fit loads
            sheet.wait()
            run = shoal_run(data, case, 0)
            row: Figures = {"data": spread, **asdict(case), "seconds": run.seconds, "updates": run.n_iter}
            products = 2 * case.n * case.d * case.k * run.n_iter / run.seconds
            row["share_of_peak"] = sheet.share(products, peak)
            row["share_of_bandwidth"] = sheet.share(data.nbytes * run.n_iter / run.seconds, "copy")
            print(
                f"    {case.n:7} x {case.d}, k = {case.k:4}, {case.n_init:2} starts, {spread:<12}{run.seconds:8.3f} s"
                f" {run.n_iter:4} updates  {percent(row['share_of_peak'])} of {peak},"
                f" {percent(row['share_of_bandwidth'])} of the bandwidth",
                flush=True,
            )
            rows.append(row)
            sheet.keep({"peak": peak, "cases": rows})


def clustered(case: Case, spread: float, device: torch.device) -> Tensor:
    """Gaussian clusters about random centres, made where they are needed."""
    generator = torch.Generator(device).manual_seed(0)
    centers = torch.randn(case.k, case.d, generator=generator, device=device)
    labels = torch.randint(case.k, (case.n,), generator=generator, device=device)
    rows = torch.randn(case.n, case.d, generator=generator, device=device).mul_(spread)
    for start in range(0, case.n, 65536):  # no second copy of the large one
        part = slice(start, start + 65536)
        rows[part] += centers[labels[part]]
    return rows


def embedding_rates(sheet: Sheet) -> None:
    """Images per second of the E-step's embedding at several batch sizes, and the whole E-step as it is."""
    sizes = sheet.sizes
    config = replace(config_of(sizes.batch, sizes.backbones[0], sizes.side), precision="bfloat16")
    config = replace(config, method=replace(config.method, hidden=sizes.hidden))  # type: ignore[call-arg]
    flops = forward_flops(config, sizes.side)
    with tempfile.TemporaryDirectory() as folder:
        run = noise_run(config, sizes.side, Path(folder) / "run", sizes.embedded)
    rows = torch.arange(sizes.embedded, device=run.device)

    def embed(batch: int) -> None:
        with mock.patch.dict(embedding.BATCH_VALUES, {run.device.type: batch * 3 * sizes.side**2}):
            embedding.embed_all(run.method, run.images.pixels, run.device, "bfloat16", rows=rows)

    found: Figures = {"images": sizes.embedded, "backbone": sizes.backbones[0], "batches": {}}
    sides = {str(batch): partial(embed, batch) for batch in sizes.embedding}
    for batch, seconds in seconds_of(sides, min(3, sizes.repeats), sheet.device).items():
        rate = sizes.embedded / seconds
        share = sheet.share(rate * flops, "bfloat16")
        found["batches"][batch] = {"images_per_second": rate, "share_of_peak": share}
        print(f"    {batch:>5} images a batch {rate:10.0f} images/s  {percent(share)} of bfloat16", flush=True)
    sheet.keep(found)
    try:
        sheet.wait()
        start = time.perf_counter()
        e_step(run, Progress())
        sheet.wait()
        found["e_step_seconds"] = time.perf_counter() - start
        print(f"    a whole E-step on images of noise: {found['e_step_seconds']:.2f} s", flush=True)
    except Exception as error:
        found["e_step_failed"] = in_a_line(error)
    sheet.keep(found)

"""What ``shoal cluster`` takes for 10 and 100 million images, on paper: the tables of docs/ten-million.md.

    python benchmarks/scale_clusters.py [--images 10_000_000 100_000_000] [--gpu-hour PRICE --core-hour PRICE]

Everything is worked out from figures under benchmarks/results: decoding (imagenet_map.json), the network on a core
(networks_cpu.json, by ``--measure``) and on a GPU (timm_rates.json, measured by timm's author), and what follows
embedding (million_*.json, by benchmarks/million.py): of each stage the CPU seconds of two numbers of rows make a fixed
part and one for each row. What is assumed is an argument.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from command import RESULTS
from measured import machine

NETWORKS = ("tf_efficientnet_lite0", "vit_small_patch14_dinov2")
SERIAL = ("tables", "equal files", "duplicates", "outliers", "atlas", "report")
"""Stages that a single thread does."""

KEPT = 8 + 8 + 8 + 16 + 24 + 312
"""Bytes that are kept of an image beside its features and its name: end of the name, class, row, fingerprint, look,
sketch."""

SCRATCH = {"cells": 4 * 4, "neighbours": 10 * 8, "lists": 5 * 8, "assignments": 28, "rows, copies, outliers": 28}
"""Bytes of scratch files for an image, at most at once."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{each:,.3g}" if isinstance(each, float) else str(each) for each in row) + " |")


def read(name: str) -> dict[str, Any]:
    """Figures that were measured."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def measure(threads: int = 1) -> None:
    """CPU seconds of an image for each network, on one thread, with weights that are random."""
    import timm

    torch.set_num_threads(threads)
    found: dict[str, Any] = {"machine": machine(), "threads": threads, "CPU s of an image": {}}
    for name in NETWORKS:
        size: dict[str, Any] = {"img_size": 224} if "dinov2" in name else {}
        network = timm.create_model(name, num_classes=0, **size).eval()
        images = torch.rand(8, 3, 224, 224)
        with torch.inference_mode():
            network(images)
            start = time.process_time()
            network(images)
        found["CPU s of an image"][name] = round((time.process_time() - start) / len(images), 4)
        print(name, found["CPU s of an image"][name])
    (RESULTS / "networks_cpu.json").write_text(f"{json.dumps(found, indent=1)}\n")


def slopes(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Of each stage the fixed CPU seconds, and those of a million rows."""
    n, m = small["rows"]["rows"], large["rows"]["rows"]
    found = {}
    for stage, figures in large["cluster"].items():
        if stage in ("all", "files") or stage not in small["cluster"]:
            continue
        each = max(0.0, (figures["CPU s"] - small["cluster"][stage]["CPU s"]) / (m - n))
        found[stage] = max(0.0, figures["CPU s"] - each * m), each * 1e6
    return found


def of_stages(stages: Mapping[str, tuple[float, float]], images: Sequence[int]) -> None:
    """CPU minutes of each stage."""
    rows = [
        (stage, fixed, each, *(float((fixed + each * n / 1e6) / 60) for n in images))
        for stage, (fixed, each) in stages.items()
    ]
    table(("stage", "fixed, CPU s", "a million rows, CPU s", *(f"{n:,} rows, CPU min" for n in images)), rows)


def of_time(stages: Mapping[str, tuple[float, float]], args: argparse.Namespace) -> None:
    """Hours of embedding and of what follows, on each machine."""
    decoding = read("imagenet_map")["decoding"]["500 x 375"]["to 224 px"]
    on_core = read("networks_cpu")["CPU s of an image"][args.network]
    on_gpu = args.gpu_rate or read("timm_rates")["images/s"][args.network_of_timm][args.gpu]
    print(f"\na core decodes {decoding:.0f} images/s and embeds {1 / on_core:.1f}; a GPU embeds {on_gpu:.0f}")
    rows = []
    for n in args.images:
        for name, gpus, cores in (
            (f"1 GPU, {args.cores} cores", 1, args.cores),
            (f"8 GPUs, {8 * args.cores} cores", 8, 8 * args.cores),
            ("64 cores", 0, 64),
        ):
            rate = min(gpus * on_gpu, cores * decoding) if gpus else cores / (1 / decoding + on_core)
            embedding = n / rate / 3600
            after = sum(
                (fixed + each * n / 1e6) / (1 if stage in SERIAL else cores) / 3600
                for stage, (fixed, each) in stages.items()
            )
            hours = embedding + after
            price = (gpus * args.gpu_hour + cores * args.core_hour) * hours if args.core_hour is not None else None
            row = [f"{n:,}", name, f"{rate:,.0f}", embedding, after, gpus * hours, cores * hours]
            rows.append(row if price is None else [*row, price])
    head = ["images", "machine", "images/s", "embedding, h", "clustering, h", "GPU-hours", "core-hours"]
    table(head if args.core_hour is None else [*head, "price"], rows)


def of_disk(large: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Gigabytes of what is kept and of scratch files."""
    files, n = large["cluster"]["files"], large["rows"]["rows"]
    rows = []
    for images in args.images:
        tables = sum(files[name] for name in ("assignments.csv", "assignments.parquet")) / n * images / 1e3
        features, kept = 4 * args.d * images / 1e9, (KEPT + args.name) * images / 1e9
        rows.append((f"{images:,}", features, kept, tables, sum(SCRATCH.values()) * images / 1e9))
    head = (f"features of {args.d}, GB", "names, fingerprints, sketches, GB", "tables, GB", "scratch, GB")
    table(("images", *head), rows)


def of_memory(names: Sequence[str]) -> None:
    """Memory that each stage needs beyond the libraries, for each number of rows."""
    found = [read(name) for name in names]
    stages = dict.fromkeys(stage for each in found for stage in each["cluster"] if stage not in ("files",))
    rows = []
    for stage in stages:
        figures = [each["cluster"].get(stage, {}) for each in found]
        rows.append((stage, *(f"{f['MB']:.0f} ({f['with maps MB']:.0f})" if "MB" in f else "" for f in figures)))
    table(("stage, MB (with maps)", *(f"{each['rows']['rows']:,} x {each['rows']['columns']}" for each in found)), rows)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the networks on a core instead")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--cores", type=int, default=16, help="cores beside each GPU (assumed)")
    parser.add_argument("--gpu", default="RTX 4090", help="a GPU that timm was measured on")
    parser.add_argument("--gpu-rate", type=float, help="images/s of yours instead")
    parser.add_argument("--network", choices=NETWORKS, default=NETWORKS[1])
    parser.add_argument("--network-of-timm", default="vit_small_patch16_224", help="one as large that timm measured")
    parser.add_argument("--d", type=int, default=384, help="features of an image")
    parser.add_argument("--name", type=int, default=40, help="bytes of a name (assumed)")
    parser.add_argument("--small", default="million_3e4_384", help="figures of fewer rows")
    parser.add_argument("--large", default="million_1e5_384", help="figures of more rows")
    parser.add_argument("--memory", nargs="+", default=["million_3e4_384", "million_1e5_384"])
    parser.add_argument("--gpu-hour", type=float, default=0.0, help="price of a GPU for an hour")
    parser.add_argument("--core-hour", type=float, help="price of a core for an hour; without, no prices are printed")
    args = parser.parse_args()
    if args.measure:
        measure()
        return
    small, large = read(args.small), read(args.large)
    stages = slopes(small, large)
    of_stages(stages, args.images)
    of_time(stages, args)
    of_disk(large, args)
    of_memory(args.memory)


if __name__ == "__main__":
    main()

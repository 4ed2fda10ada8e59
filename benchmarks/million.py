"""Millions of image files, and what they take: listed, embedded, clustered, and read again by other commands.

    python benchmarks/million.py [--n 10_000_000] [--embed 200_000] [--folder FOLDER] [--save NAME]

The files are hard links in nested folders to a few thousand real JPEG files, so the disk holds few bytes.

- They are listed as every command does before it reads one.
- Some of them, ``--embed``, are embedded by a tiny network, so that nearly all time goes into reading; and once more
  while that is killed with signal 9 three times: the features must be the same.
- ``parts`` measures some things that are done for each image alone, with as many rows.
- What comes after embedding is measured on features that were made up, written by the project's own ``Store`` for all
  files: 1 % are near copies of others, 1 % the same file. Their clustering is measured stage by stage, then the
  commands that read the result.

Each step is a process of its own. ``MB`` is the memory that it needs beyond its libraries, ``with maps`` counts the
pages of mapped files as well, which the system drops when it needs the room. ``--steps`` chooses steps, and
``--no-tree`` leaves out the files and what needs them, where a disk has no room for as many names.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from command import RESULTS
from measured import Memory, machine, measured

if TYPE_CHECKING:
    from shoal.features import Encoder

_REAL = 2000  # JPEG files that the links lead to
_EACH = 1000  # files of a folder
_WIDE = 20  # folders of a folder


def build(folder: Path, n: int) -> Path:
    """Make a tree of ``n`` images, or take the one that is there."""
    tree = folder / f"images-{n}"
    if tree.is_dir():
        return tree
    real = folder / "real"
    real.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(_REAL):
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(real / f"{number:04}.jpg", quality=85)
    begun = folder / f"begun-{n}"
    for start in range(0, n, _EACH):
        number = start // _EACH
        inner = begun / f"part {number // _WIDE:04}" / f"folder {number % _WIDE:02}"
        inner.mkdir(parents=True, exist_ok=True)
        for row in range(start, min(start + _EACH, n)):
            os.link(real / f"{row % _REAL:04}.jpg", inner / f"IMG_{row:08}.jpg")
    begun.rename(tree)
    return tree


def list_images(tree: Path) -> dict[str, Any]:
    """List the images: names, labels, and what tells them from others."""
    from shoal.data import find_source
    from shoal.data.listing import source_digest

    memory, listed, digest = Memory(), dict[str, float](), dict[str, float]()
    with measured(memory, listed):
        source = find_source(tree)
        listing = source.listing()
    with measured(memory, digest):
        source_digest(source, listing)
    return {"images": len(listing.ids), "list": listed, "digest": digest}


def tiny_encoder() -> Encoder:
    """A small network with the weights of seed 0, at 16 px: nearly all time goes into reading."""
    import torch

    from shoal.features import Encoder, EncoderSpec
    from shoal.features.inference import SquarePreparing
    from shoal.models.small import SmallNet

    torch.manual_seed(0)
    network = SmallNet(8, 1).eval()
    spec = EncoderSpec("timm", "tiny", digest="seed 0")
    device, size = torch.device("cpu"), (16, 16)
    return Encoder(spec, network, network.n_features, size, device, "float32", SquarePreparing(size), network)


def embed_images(tree: Path) -> dict[str, Any]:
    """Embed all images, or go on where a process that was killed stopped."""
    from shoal.data import find_source
    from shoal.features import embed

    encoder, memory, figures = tiny_encoder(), Memory(), dict[str, float]()
    with measured(memory, figures):
        found = embed(find_source(tree), encoder, tree.parent / os.environ["FEATURES"])
    return {"images": len(found.ids), "images/s": round(len(found.ids) / figures["s"]), **figures}


def embed_killed(tree: Path, seconds: float) -> dict[str, Any]:
    """Kill embedding three times in what it takes, let it end, and compare its features with those of the whole run."""
    command = [sys.executable, __file__, "--step", "embed", "--tree", str(tree)]
    environment = os.environ | {"FEATURES": "killed"}
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        time.sleep(seconds / 4)
        process.kill()
        process.wait()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    same = filecmp.cmp(tree.parent / "whole" / "features.f32", tree.parent / "killed" / "features.f32", shallow=False)
    return {"kills": 3, "identical": same}


def make_rows(tree: Path, at: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Make features up."""
    import million_rows

    shutil.rmtree(at, ignore_errors=True)
    memory, figures = Memory(), dict[str, float]()
    with measured(memory, figures):
        million_rows.make(at / "features", None if args.no_tree else tree, args.n, args.d)
    return {"rows": args.n, "columns": args.d, **figures}


def cluster_rows(tree: Path, at: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Cluster them, by k-means of all rows or by mini-batches."""
    import million_rows

    return million_rows.cluster(at, None if args.no_tree else tree, args.k, args.method, args.leave_out)


def read_result(words: list[str]) -> dict[str, Any]:
    """Run a command on the result."""
    import million_rows

    return million_rows.command(words)


def of_step(args: argparse.Namespace) -> dict[str, Any]:
    """What a process does."""
    tree, at, step = args.tree, args.at, args.step
    if step == "list":
        return list_images(tree)
    if step == "embed":
        return embed_images(tree)
    if step == "rows":
        return make_rows(tree, at, args)
    if step == "cluster":
        return cluster_rows(tree, at, args)
    if step == "part":
        import million_rows

        return million_rows.part(args.part, args.n)
    words = {
        "report": ["report", str(at)],
        "evaluate": ["evaluate", str(at)],
        "sort": ["sort", str(at), "--copy", str(at.with_name("sorted"))],
    }
    return read_result(words[step])


STEPS = ("list", "embed", "killed", "rows", "cluster", "report", "evaluate", "sort", "parts")


def run_step(step: str, tree: Path, at: Path, args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Run a step in a process of its own, whose memory nothing else has grown."""
    command = [sys.executable, __file__, "--step", step, "--tree", str(tree), "--at", str(at), "--n", str(args.n)]
    command += ["--d", str(args.d), "--k", str(args.k), "--method", args.method, *(["--no-tree"] * args.no_tree)]
    command += ["--leave-out", *args.leave_out, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | {"FEATURES": "whole"})
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print and keep the figures of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="files")
    parser.add_argument("--embed", type=int, default=200_000, help="files that are embedded")
    parser.add_argument("--d", type=int, default=64, help="columns of the features that are made up")
    parser.add_argument("--k", type=int, default=100, help="clusters")
    parser.add_argument("--method", choices=("kmeans", "minibatch"), default="kmeans")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--no-tree", action="store_true", help="no files, only features")
    parser.add_argument("--leave-out", nargs="*", default=[], choices=("map", "neighbours and copies"), help="stages")
    parser.add_argument("--folder", type=Path, help="where they are kept for the next time; else they are removed")
    parser.add_argument("--save", help="name under benchmarks/results, which keeps the figures of other steps")
    for name in ("--step", "--part", "--tree", "--at"):
        parser.add_argument(name, type=str if name in ("--step", "--part") else Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(of_step(args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        run_all(args.folder or Path(temporary), args)


def run_all(folder: Path, args: argparse.Namespace) -> None:
    """Run the steps one after the other."""
    start, steps = time.perf_counter(), [*args.steps]
    tree = folder / f"images-{args.n}"
    if not args.no_tree:
        build(folder, args.n)
        print(f"{args.n} files in {tree}, after {time.perf_counter() - start:.1f} s", flush=True)
    few = build(folder, min(args.n, args.embed)) if {"embed", "killed"} & {*steps} else tree
    for step in steps:
        if step in ("embed", "killed"):
            shutil.rmtree(few.parent / ("whole" if step == "embed" else "killed"), ignore_errors=True)
        if step == "killed":
            figures = embed_killed(few, kept(args.save)["embed"]["s"] if args.save else 60)
        elif step == "parts":
            from million_rows import PARTS

            figures = {part: run_step("part", tree, folder, args, "--part", part) for part in PARTS}
        else:
            figures = run_step(step, few if step == "embed" else tree, folder / f"rows-{args.n}", args)
        tell(step, figures)
        if args.save:
            keep(args.save, step if args.method == "kmeans" else f"{step} {args.method}", figures)


def kept(name: str) -> dict[str, Any]:
    """The figures so far."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep(name: str, step: str, figures: dict[str, Any]) -> None:
    """Add figures to those of other steps."""
    whole = {**kept(name), "machine": machine(), step: figures}
    (RESULTS / f"{name}.json").write_text(f"{json.dumps(whole, indent=1)}\n")


def tell(step: str, figures: dict[str, Any], indent: str = "") -> None:
    """Print the figures of a step, and those of its stages below it."""
    line = "  ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, dict))
    print(f"{indent}{step:<24}{line}", flush=True)
    for name, value in figures.items():
        if isinstance(value, dict):
            tell(name, value, "  ")


if __name__ == "__main__":
    main()

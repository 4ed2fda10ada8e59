"""``shoal update`` against clustering from scratch, and whether it leaves what is unchanged as it was.

    python benchmarks/update.py FOLDER WEIGHTS [--backbone.name NAME] [-k 10]

FOLDER holds photos in subfolders, of which a copy is clustered. WEIGHTS may be random ones: they take the same time.
Then 50 photos join (others, turned over), 5 are replaced by such under their old names and 5 are deleted. Both commands
run in processes of their own, imports included.
"""

from __future__ import annotations

import argparse
import csv
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from shoal.features import DEFAULT_BACKBONE

N_NEW, N_REPLACED, N_DELETED = 50, 5, 5
MOST = 1 / 20
"""Of the time of a clustering from scratch."""


def seconds(*words: str) -> tuple[float, float]:
    """What a command of shoal takes: on the clock, and of processors, which other programs disturb less."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "shoal", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def assignments(folder: Path) -> dict[str, tuple[str, ...]]:
    """The row of each image."""
    with (folder / "assignments.csv").open(newline="") as file:
        return {row["id"]: tuple(row.values()) for row in csv.DictReader(file)}


def change(photos: Path) -> set[str]:
    """Add, replace and delete photos; returns the names of those that are no longer what they were."""
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    step = len(files) // (N_NEW + N_REPLACED + N_DELETED)
    chosen = files[::step][: N_NEW + N_REPLACED + N_DELETED]
    for file in chosen[:N_NEW]:
        turned_over(file, file.with_name(f"new-{file.name}"))
    replaced, deleted = chosen[N_NEW : N_NEW + N_REPLACED], chosen[N_NEW + N_REPLACED :]
    for file, other in zip(replaced, chosen, strict=False):
        turned_over(other, file)
    for file in deleted:
        file.unlink()
    return {file.relative_to(photos).as_posix() for file in [*replaced, *deleted]}


def turned_over(photo: Path, goal: Path) -> None:
    """A photo upside down, which no other equals."""
    with Image.open(photo) as image:
        turned = ImageOps.flip(image)
    turned.save(goal, "JPEG", quality=95)


def main(argv: Sequence[str] | None = None) -> int:
    """Print both times and what differs; 1 if the update is too slow or has touched what is unchanged."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--backbone.name", dest="backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("-k", default="10")
    given = parser.parse_args(argv)
    network = ["--backbone.name", given.backbone, "--backbone.weights", given.weights]
    with tempfile.TemporaryDirectory() as scratch:
        photos, result = Path(scratch) / "photos", Path(scratch) / "result"
        shutil.copytree(given.folder, photos)
        from_scratch = seconds("cluster", str(photos), "-k", given.k, "--out", str(result), "--quiet", *network)
        before = assignments(result)
        odd = change(photos)
        update = seconds("update", str(result))
        after, there = assignments(result), {path.relative_to(photos).as_posix() for path in photos.rglob("*.*")}
    unchanged = before.keys() - odd
    touched = sum(after.get(name) != before[name] for name in unchanged)
    print(f"{len(before)} photos, {len(after)} after the update")
    for what, mine, theirs in zip(("seconds", "CPU seconds"), update, from_scratch, strict=True):
        print(f"{what}: update {mine:.1f}, from scratch {theirs:.1f}: 1/{theirs / mine:.1f}")
    print(f"rows of unchanged photos that differ: {touched} of {len(unchanged)}")
    print(f"all photos that are there, and no others: {after.keys() == there}")
    right = not touched and after.keys() == there and update[0] <= MOST * from_scratch[0]
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

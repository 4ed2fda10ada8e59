"""``shoal cluster`` by one process and by several under torchrun: the same folder, killed or not, and what it costs.

    python benchmarks/cluster_ranks.py PHOTOS                       # 2, 3 and 4 processes against one
    python benchmarks/cluster_ranks.py PHOTOS --kills 4             # killed at random moments as well

PHOTOS is a folder of images. Without ``--backbone`` and ``--weights``, a small network of timm with random weights
makes features of them: whether results are the same does not depend on the network. Each kill, with signal 9, hits one
process or all of them, taking turns, once a random share of the images is done; another number of processes then goes
on, and at the end every file of features must be the same to the last byte.
"""

from __future__ import annotations

import argparse
import csv
import filecmp
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from command import keep
from shoal.features.embedded import FILES, SHARDS, read_journal

_PATIENCE = 60.0
"""Seconds in which a job must end once one of its processes is killed."""

_RESUMES = "run the same command again to resume", "rerun the same command to resume"


def command(n: int, flags: Sequence[str], out: Path) -> list[str]:
    """The command for n processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)] if n > 1 else []
    return [sys.executable, *torchrun, "-m", "shoal", "cluster", *flags, "--out", str(out)]


def random_weights(folder: Path) -> list[str]:
    """The flags for a small network with the weights of seed 0."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()}, folder / "weights.safetensors"
    )
    return ["--backbone.name", "test_vit", "--backbone.weights", str(folder / "weights.safetensors")]


def measured(n: int, flags: Sequence[str], out: Path) -> dict[str, float]:
    """Run to the end; CPU seconds are those of all processes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command(n, [*flags, "--quiet"], out), check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processes": n, "cpu_s": round(cpu, 1), "wall_s": round(time.perf_counter() - start, 1)}


def different(one: Path, other: Path) -> list[str]:
    """Files of features that are not the same to the last byte; the journal says when each second's work was kept."""
    names = ["header.json", *(name for name in FILES if name != "journal.jsonl")]
    return [
        name for name in names if not filecmp.cmp(one / "features" / name, other / "features" / name, shallow=False)
    ]


def clusters(folder: Path) -> list[str]:
    """The cluster of each image."""
    with (folder / "assignments.csv").open(newline="", encoding="utf-8") as file:
        return [row["cluster"] for row in csv.DictReader(file)]


def done(features: Path) -> int:
    """Images that are dealt with and on disk."""
    if not (features / "header.json").exists():
        return 0
    total = read_journal(features)[0].looked_at
    for shard in (features / SHARDS).glob("*"):
        if (shard / "header.json").exists():
            total += max(0, read_journal(shard)[0].looked_at - int(shard.name))
    return total


def ranks(job: subprocess.Popen[str]) -> list[int]:
    """Process numbers of a job's processes; the job itself where it is the only one."""
    found = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"cluster" in Path(f"/proc/{pid}/cmdline").read_bytes()] or [job.pid]


def killed(n: int, flags: Sequence[str], out: Path, at: int, *, everyone: bool) -> dict[str, object]:
    """Start n processes and kill one of them, or all, once this many images are done."""
    with tempfile.TemporaryFile("w+") as said:
        job = subprocess.Popen(command(n, flags, out), stdout=said, stderr=subprocess.STDOUT, text=True)
        while done(out / "features") < at and job.poll() is None:
            time.sleep(0.02)
        victims = ranks(job) if job.poll() is None else []
        victims = [*victims, job.pid] if everyone else random.sample(victims, min(1, len(victims)))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        start = time.perf_counter()
        job.wait(timeout=_PATIENCE)
        seconds, kept = time.perf_counter() - start, done(out / "features")
        said.seek(0)
        text = said.read()
    told = sum(text.count(each) for each in _RESUMES)
    who = "all" if everyone else "one"
    return {"processes": n, "killed": who, "at": at, "kept": kept, "ended_s": round(seconds, 1), "told": told}


def main() -> None:
    """Print a line for each run, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("-k", default="10")
    parser.add_argument("--backbone")
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which processes are killed")
    parser.add_argument("--save", default="", help="keep the figures under this name in benchmarks/results")
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = ["--backbone.name", args.backbone, *(["--backbone.weights", args.weights] if args.weights else [])]
        flags = [str(args.photos), "-k", args.k, *(network if args.backbone else random_weights(folder))]
        found: list[dict[str, object]] = [{**measured(1, flags, folder / "one")}]
        own = clusters(folder / "one")
        print(f"{len(own)} images\n{found[0]}", flush=True)

        def compared(run: dict[str, object], out: Path) -> None:
            theirs = clusters(out)
            same = sum(mine == other for mine, other in zip(own, theirs, strict=True))
            found.append(
                run | {"same_clusters": same, "of": len(own), "different_files": different(folder / "one", out)}
            )
            print(found[-1], flush=True)

        for n in args.ranks:
            compared({**measured(n, flags, folder / str(n))}, folder / str(n))
        kills = []
        for number in range(args.kills):
            at = round(len(own) * (number + random.random()) / args.kills)
            n = random.choice([2, 3, 4])
            kills.append(killed(n, flags, folder / "killed", at, everyone=number % 2 == 1))
            print(kills[-1], flush=True)
        if kills:
            compared(
                {"kills": kills, **measured(random.choice([1, 2, 3]), flags, folder / "killed")}, folder / "killed"
            )
    if args.save:
        keep(args.save, {"images": len(own), "runs": found})


if __name__ == "__main__":
    main()

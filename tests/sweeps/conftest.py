"""A sweep whose processes only pretend to train."""

import sys

import pytest
from tests.runs import Heard

from shoal.sweeps.folder import SweepFolder
from shoal.sweeps.grid import parse_grid, plan
from shoal.sweeps.launch import Launcher, Machine

CHILD = """\
import os, pathlib, signal, sys, time
train, first, second, *rest = sys.argv[1:]
out = pathlib.Path(second if first == "--resume" else rest[0])
recipe = (out / "config.yaml" if first == "--resume" else pathlib.Path(first)).read_text()
out.mkdir(exist_ok=True)
(out / "config.yaml").write_text(recipe)
begun = " ".join(sys.argv[-2:]) if "--plugin" in sys.argv else first == "--resume"
with (out / "starts").open("a") as file:
    file.write(f"{begun} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
if "seed: 1" in recipe and not (out.parent / "mended").exists():
    sys.exit("shoal: this seed brings bad luck")
if "seed: 2" in recipe and not (out.parent / "mended").exists():
    signal.signal(signal.SIGTERM, lambda *_: ((out / "saved").touch(), sys.exit(143)))
    (out / "waits").touch()
    time.sleep(60)
(out / "clustering.safetensors").touch()
"""


@pytest.fixture
def sweep(tmp_path):
    """A function that makes a sweep of some seeds: its folder, runs, launcher and progress."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)

    def make(*seeds, jobs=1, gpus=(), words=(), plugins=()):
        folder = SweepFolder(tmp_path / "sweep")
        points = plan(["propos-digits"], seeds, parse_grid(words))
        folder.check(points)
        with folder.locked() as lock:
            folder.write(points)
        assert lock
        command = [sys.executable, str(script)]
        launcher = Launcher(folder, Machine(jobs, gpus, 3), command, plugins, held.fileno())
        return folder, points, launcher, Heard()

    with (tmp_path / "lock").open("wb") as held:
        yield make

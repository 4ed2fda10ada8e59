"""Runs small enough for tests."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from shoal.config import RunConfig, load_recipe
from shoal.folder import ResultFolder
from shoal.methods import ProPosConfig
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import Run
from shoal.training.run import Watcher
from shoal.types import Images

RECIPE = """\
n_clusters: 4
epochs: 3
cluster_from: 1
precision: float32
data: {path: PICTURES}
augment: {degrees: 10, crop_scale: [1, 1], flip_p: 0, hue: 0, saturation: 0, grey_p: 0}
backbone: {name: small, width: 4}
method: {name: propos, hidden: 16, dim: 8, momentum: 0.9}
optim: {batch_size: 32, lr: 0.1, warmup_epochs: 1}
"""


def tiny_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe as a file, beside a folder with its pictures."""
    pictures = folder / "pictures"
    if not pictures.exists():
        write_pictures(pictures)
    path = folder / "tiny.yaml"
    path.write_text(text.replace("PICTURES", str(pictures)))
    return path


def write_pictures(folder: Path) -> None:
    """A subfolder of PNG files for each class."""
    images = tiny_images(200)
    for pixels, label, name in zip(images.pixels, images.targets.tolist(), images.ids, strict=True):
        path = folder / images.classes[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def tiny_config(**changes: object) -> RunConfig:
    """A config of 3 epochs of 2 steps on 40 images."""
    base = RunConfig(
        n_clusters=4,
        epochs=3,
        cluster_from=1,
        precision="float32",
        method=ProPosConfig(hidden=16, dim=8, momentum=0.9),
    )
    optim = dataclasses.replace(base.optim, batch_size=16, warmup_epochs=1)
    backbone = dataclasses.replace(base.backbone, name="small", width=4)
    return dataclasses.replace(base, optim=optim, backbone=backbone, **changes)


def tiny_images(n: int = 40, n_classes: int = 4) -> Images:
    """Noise with a bright quarter that depends on the class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % n_classes
    pixels = torch.randint(0, 120, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        row, column = divmod(label % 4, 2)
        pixels[i, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 120
    classes = tuple(f"class {c}" for c in range(n_classes))
    return Images(pixels, labels, torch.ones(n, dtype=torch.bool), classes, [f"{i}.png" for i in range(n)])


def beside(images: Images, n: int) -> Images:
    """The same images, the last ``n`` of which are neither labelled nor clustered."""
    take_part = torch.arange(len(images)) < len(images) - n
    return dataclasses.replace(images, targets=images.targets.where(take_part, -1), clustered=take_part)


def new_run(path: Path, config: RunConfig | None = None, images: Images | None = None) -> Run:
    """A run at its start."""
    return workflow.start(config or tiny_config(), path, Progress(), images or tiny_images())


def reopened(path: Path, images: Images | None = None) -> Run:
    """The run in a folder as it last saved, with images that no file holds."""
    folder = ResultFolder(path)
    run = Run(load_recipe(str(folder.config)), images or tiny_images(), folder)
    run.load()
    return run


class StopAfter(Watcher):
    """Asks the run to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, run) -> None:
        self.steps -= 1
        if self.steps == 0:
            run.stop_signal = signal.SIGTERM


def same_files(a: Path, b: Path) -> None:
    """States, and weights of finished runs, are equal bit by bit; metrics but for the clock."""
    names = {path.name for folder in (a, b) for path in folder.glob("*.safetensors")}
    assert "state.safetensors" in names
    for name in names:
        one, two = load_file(a / name), load_file(b / name)
        assert one.keys() == two.keys()
        for key in one:
            # Images that are not clustered have NaN for a distance.
            torch.testing.assert_close(one[key], two[key], rtol=0, atol=0, equal_nan=True, msg=key)
    clock = {"seconds", "images_per_second", "e_step_seconds"}
    rows = [
        [{k: v for k, v in row.items() if k not in clock} for row in ResultFolder(x).read_metrics()] for x in (a, b)
    ]
    assert rows[0] == rows[1]


class Heard(Progress):
    """What was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

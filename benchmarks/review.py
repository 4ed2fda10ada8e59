"""The page of ``shoal review`` with many images: first paint, frames while scrolling, memory of the server.

    python benchmarks/review.py [--n 200000] [--k 50] [--save review]

The features are synthetic groups and the thumbnails a thousand small patterns; server and page are those of the
command. It wants Chromium and the test requirements. What is drawn is drawn by the CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from command import RESULTS

D = 32
EDGE = 96
PATTERNS = 1000
SECONDS = 4
LEAST_FRAMES, MOST_SECONDS, MOST_GROWTH = 30, 2.0, 1.1

PAINTED = """() => {
  const canvases = [...document.querySelectorAll(".card canvas, .tile:not([hidden]) canvas")].filter((canvas) => {
    const { top, bottom } = canvas.getBoundingClientRect();
    return canvas.checkVisibility() && bottom > 0 && top < innerHeight;
  });
  return canvases.length > 10 && canvases.every((canvas) => canvas.width > 1);
}"""

SCROLL = """([seconds, pixels]) => new Promise((resolve) => {
  document.documentElement.style.scrollBehavior = "auto";
  const start = performance.now();
  let [frames, before, worst] = [0, start, 0];
  const turn = (now) => {
    frames += 1;
    worst = Math.max(worst, now - before);
    before = now;
    scrollBy(0, pixels);
    if (now - start < 1000 * seconds) requestAnimationFrame(turn);
    else resolve({ frames: frames / ((now - start) / 1000), worst });
  };
  requestAnimationFrame(turn);
})"""

PAN = """(seconds) => new Promise((resolve) => {
  const chart = document.querySelector("#chart");
  chart.focus();
  for (let i = 0; i < 3; i++) chart.dispatchEvent(new KeyboardEvent("keydown", { key: "+" }));
  const start = performance.now();
  let [frames, worst, before] = [0, 0, start];
  const turn = (now) => {
    frames += 1;
    worst = Math.max(worst, now - before);
    before = now;
    chart.dispatchEvent(new KeyboardEvent("keydown", { key: frames % 40 < 20 ? "ArrowRight" : "ArrowLeft" }));
    if (now - start < 1000 * seconds) requestAnimationFrame(turn);
    else resolve({ frames: frames / ((now - start) / 1000), worst });
  };
  requestAnimationFrame(turn);
})"""


def make(folder: Path, n: int, k: int) -> None:
    """Synthetic features in groups, their clusters and a map of them."""
    from shoal.clustering import KMeans
    from shoal.folder import ResultFolder
    from shoal.results.finish import write_files
    from shoal.results.inputs import Inputs
    from shoal.results.result import Result
    from shoal.results.rows import assign_rows

    random = torch.Generator().manual_seed(0)
    middles = torch.randn(k, D, generator=random)
    features = middles[torch.randint(k, (n,), generator=random)] + 0.5 * torch.randn(n, D, generator=random)
    np.save(folder / "features.npy", features.numpy())
    model = KMeans(k, random_state=0, n_init=1).fit(features[:20_000])
    centers = torch.as_tensor(model.cluster_centers_)
    found = assign_rows(features, model, centers, "euclidean", positions=features[:, :2].contiguous())
    place = ResultFolder(folder / "clusters")
    place.path.mkdir()
    source = str(folder / "features.npy")
    result = Result(place, "kmeans", model, centers, "euclidean", 0, source, "", folder, None, k)
    ids = [f"folder-{i % 100:02}/image-{i:06}.jpg" for i in range(n)]
    write_files(result, Inputs(features, ids, "rows", source), found)


def pattern(number: int) -> bytes:
    """A thumbnail."""
    from shoal.results.atlas import encode

    x = np.arange(EDGE)
    wave = np.sin(x[:, None] / (3 + number % 17)) + np.cos(x[None] / (4 + number % 13))
    colours = np.random.default_rng(number).integers(60, 200, 3)
    pixels = np.clip(colours[:, None, None] + 40 * wave, 0, 255).astype(np.uint8)
    return encode(torch.from_numpy(pixels), EDGE)


def serve(clusters: Path) -> int:
    """The command, with patterns for thumbnails."""
    from shoal.cli.main import main
    from shoal.review.facts import Facts

    patterns = [pattern(number) for number in range(PATTERNS)]
    setattr(Facts, "thumbs", lambda _self, rows: [patterns[row % PATTERNS] for row in rows])  # noqa: B010 - it is a method
    return main(["review", str(clusters), "--no-browser"])


def memory(process: int) -> float:
    """Resident megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure(address: str, server: int) -> dict[str, Any]:
    """Open the page, scroll, pan."""
    import shutil

    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with (
        sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--enable-precise-memory-info"])
        ) as browser,
    ):
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        found: dict[str, Any] = {"server MB at the start": memory(server)}
        for visit in ("first", "second"):
            start = time.perf_counter()
            page.goto(address)
            page.wait_for_function(PAINTED, polling="raf")
            found[f"{visit} paint, s"] = time.perf_counter() - start
        page.wait_for_selector("main:not([aria-busy])", timeout=60_000)
        start = time.perf_counter()
        page.evaluate("location.hash = '#/images'")
        page.wait_for_function(PAINTED, polling="raf")
        found["gallery, s"] = time.perf_counter() - start
        page.evaluate(SCROLL, [1, 60])
        found["server MB before scrolling"] = memory(server)
        for name, pixels in (("slowly", 15), ("fast", 150), ("in leaps", 20_000)):
            found[f"scrolling {name}"] = page.evaluate(SCROLL, [SECONDS, pixels])
            page.wait_for_function(PAINTED, polling="raf")
        found["server MB after scrolling"] = memory(server)
        found["page MB"] = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
        page.evaluate("location.hash = '#/map'")
        page.wait_for_timeout(3000)
        found["panning the map"] = page.evaluate(PAN, SECONDS)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was measured; 1 if the page is slow or the server grows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--save", default="")
    given = parser.parse_args(argv)
    if given.serve:
        return serve(given.serve)
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), given.n, given.k)
        command = [sys.executable, __file__, "--serve", str(Path(scratch) / "clusters")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        try:
            time.sleep(2)
            found = {"images": given.n, **measure(address, process.pid)}
        finally:
            process.kill()
            process.communicate()
    print(json.dumps(found, indent=1))
    if given.save:
        (RESULTS / f"{given.save}.json").write_text(json.dumps(found, indent=1) + "\n")
    smooth = all(each["frames"] >= LEAST_FRAMES for each in found.values() if isinstance(each, dict))
    flat = found["server MB after scrolling"] <= MOST_GROWTH * found["server MB before scrolling"]
    return 0 if smooth and flat and found["first paint, s"] <= MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())

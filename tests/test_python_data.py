"""docs/python-data.md, run as it stands."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import shoal
from tests.test_estimators import SMALL

PAGE = Path(__file__).parents[1] / "docs/python-data.md"


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    paths, labels = [f"photos/{kind}/{i}.png" for i, kind in enumerate("ab" * 5)], [*"ab" * 5]
    for path, image in zip(paths, pixels, strict=False):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)

    def quick(n_clusters, epochs, out=None):
        return shoal.ProPos(min(n_clusters, 3), epochs=min(epochs, 2), out=out, settings=SMALL)

    known = {"torch": torch, "Image": Image, "datasets": datasets, "pandas": pandas, "pixels": pixels}
    known |= {"paths": paths, "labels": labels, "data": pixels, "others": paths, "held_out": "photos"}
    known["shoal"] = SimpleNamespace(ProPos=quick)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        exec(block.removeprefix("import shoal\n"), known)
    assert "Accuracy (one-to-one matching)" in capsys.readouterr().out

"""The speed sheet, last: figures and what the other tests found, in one file to commit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(200), pytest.mark.filterwarnings("default")]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MINUTES = 1.7


def test_the_speed_sheet(device, figures, tmp_path):
    small = device.type != "cuda"
    out = tmp_path if small else BENCHMARKS / "results"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--minutes", str(MINUTES), "--out", str(out)]
    parts = ["--tiny", "--parts", "peaks", "kmeans"] if small else []
    subprocess.run([*command, *parts], check=True)
    name = "cpu" if small else torch.cuda.get_device_name()
    slug = "_".join("".join(char if char.isalnum() else " " for char in name.lower()).split())
    file = out / f"gpu_{slug}.json"
    record = json.loads(file.read_text())
    done = [part for part, status in record["status"].items() if status.startswith("done")]
    assert {"peaks", "kmeans"} <= {*done}
    assert all(rate > 0 for rate in record["parts"]["peaks"].values())
    rungs = record["parts"].get("resnet18", {}).get("rungs", {})
    assert not [rung for rung, row in rungs.items() if "failed" in row and rung != "lightly's BYOL"]
    file.write_text(json.dumps(record | {"checks": figures}, indent=1) + "\n")

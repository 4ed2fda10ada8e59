"""Memory does not grow with the number of images, in a process of its own."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from itertools import repeat
from pathlib import Path
import torch
from torch import nn
from shoal.data.listing import Listing, Source
from shoal.features import Encoder, EncoderSpec, embed
from shoal.features.inference import SquarePreparing
from tests.features.examples import pictures

class Wide(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :1].repeat(1, 4096)

n, picture = int(sys.argv[2]), pictures(1, 8)[0]

def source(n):
    listing = Listing(range_names(n), [-1] * n, (), lambda: repeat(picture, n))
    return Source((), [], lambda: listing)

def range_names(n):
    return [str(i) for i in range(n)]

spec = EncoderSpec("run", "tiny", "", "d")
device = torch.device("cpu")
encoder = Encoder(spec, Wide(), 4096, (8, 8), device, "float32", SquarePreparing((8, 8)), Wide())
embed(source(500), encoder, Path(sys.argv[1]) / "first")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
embed(source(n), encoder, Path(sys.argv[1]) / "second")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_features_are_never_held_whole(tmp_path):
    n = 20_000
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(n)], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "second" / "features.f32").stat().st_size == n * 4096 * 4  # 330 MB
    assert int(done.stdout) * 1024 < 60e6
    (tmp_path / "second" / "features.f32").unlink()

"""How much memory mini-batch k-means takes for rows on a disk, in a process of its own."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from shoal.clustering import MiniBatchKMeans

path, dtype, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(0)
with open(path, "wb") as file:
    for _ in range(n // 1000):
        rng.integers(0, 200, (1000, 256), dtype=np.uint8).astype(dtype).tofile(file)
fit = MiniBatchKMeans(10, max_iter=1, random_state=0).fit
fit(rng.standard_normal((5000, 256), dtype=np.float32))  # loads what a first fit loads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fit(np.memmap(path, dtype, "r", shape=(n, 256)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


LIMIT = 80e6


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "n"), [("float32", 200_000), ("uint8", 400_000)])
def test_a_memory_map_is_read_a_batch_at_a_time(tmp_path, dtype, n):
    path = tmp_path / "rows"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), dtype, str(n)], capture_output=True, text=True, check=True
    )
    # The rows take 200 MB as float32; as float64, which integers become, 800 MB.
    assert int(done.stdout) * 1024 < LIMIT
    path.unlink()

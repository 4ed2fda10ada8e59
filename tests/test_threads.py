"""A process keeps the number of threads that it was given, whatever UMAP, t-SNE or scikit-learn do."""

import os
import subprocess
import sys

import pytest
import torch
from threadpoolctl import threadpool_info

from shoal.device import hold_threads

WATCHED = """
import sys
import numpy as np, torch
from threadpoolctl import threadpool_info
from shoal.clustering import UMAPHDBSCAN, UMAPKMeans, map_positions, suggest_k

said = torch.get_num_threads()
X = np.random.default_rng(0).normal(size=(120, 8)).astype("f4")
if "umap" in sys.argv:
    UMAPKMeans(3, random_state=0).fit(X)
    UMAPHDBSCAN(random_state=0).fit(X)
map_positions(torch.tensor(X), metric="euclidean", seed=0)
suggest_k(X, metric="euclidean")
shared = [p["num_threads"] for p in threadpool_info() if "torch" in p["filepath"]]
print(said, torch.get_num_threads(), *shared)
"""


def numbers_after(environment, *what):
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", WATCHED, *what], capture_output=True, text=True, env=env, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_a_map_and_a_suggestion_leave_the_threads_alone():
    assert set(numbers_after({"OMP_NUM_THREADS": "1"})) == {"1"}


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_umap_leaves_the_threads_alone(threads):
    """numba's first parallel function would set OpenMP, which torch shares, to the number of cores."""
    assert set(numbers_after({"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": "4"}, "umap")) == {threads}


def of_libraries():
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


def test_libraries_are_held_and_put_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        outside = of_libraries()
        with hold_threads():
            assert torch.get_num_threads() == 3
            assert all(inside <= 3 for inside in of_libraries().values())
            with hold_threads(1):
                assert torch.get_num_threads() == 1
                assert set(of_libraries().values()) == {1}
            with hold_threads(8):
                assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 3
        after = of_libraries()  # others may have been loaded meanwhile
        assert {path: after[path] for path in outside} == outside
    finally:
        torch.set_num_threads(before)


def test_threads_are_put_back_after_an_error():
    before = torch.get_num_threads()
    outside = of_libraries()
    with pytest.raises(KeyError), hold_threads(1):
        raise KeyError
    assert (torch.get_num_threads(), of_libraries()) == (before, outside)

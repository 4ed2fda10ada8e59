"""The device that these tests try, and the figures that they find."""

import os

import pytest
import torch

ON = os.environ.get("SHOAL_GPU_TESTS_ON", "cuda")
"""``cpu`` rehearses all but what needs a GPU itself, such as CUDA graphs, with smaller sizes."""


@pytest.fixture(scope="session")
def device():
    """The GPU, or the CPU for a rehearsal."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("a GPU is for one process at a time: run these tests alone, with -m gpu")
    if ON == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA GPU here: SHOAL_GPU_TESTS_ON=cpu rehearses these tests on a CPU")
    return torch.device(ON)


@pytest.fixture
def gpu(device):
    """The GPU; what needs one is not rehearsed."""
    if device.type != "cuda":
        pytest.skip("this needs a CUDA GPU itself")
    return device


@pytest.fixture(scope="session")
def figures():
    """What the tests have found, by test: the speed sheet takes them in."""
    return {}


@pytest.fixture(autouse=True)
def _float32_is_float32():
    """No TF32, so that float32 is compared with float32; what is compiled is forgotten afterwards."""
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, allowed in zip(places, before, strict=True):
        place.allow_tf32 = allowed
    torch.compiler.reset()

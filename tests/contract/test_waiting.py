"""No step asks the device for a value: on a GPU that would be a wait for all that was asked of it before."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.data import ViewConfig, apply_views, draw_view
from tests.contract.examples import SMALL, batch, clusterings, method, total

ALL = ViewConfig(degrees=10.0, blur_p=(0.5, 0.5), solarise_p=(0.5, 0.5), grey_p=0.5)
READS = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "is_nonzero", "equal"}


class NoReads(TorchDispatchMode):
    """Fails on an operation whose result, or its shape, the host must know."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in READS, func
        return func(*args, **(kwargs or {}))


def test_reads_are_noticed():
    with NoReads(), pytest.raises(AssertionError, match="nonzero"):
        torch.ones(3).nonzero()
    with NoReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.ones(1))


@pytest.mark.parametrize("name", SMALL)
def test_a_step_reads_nothing(name):
    ours = method(name)
    images, found = batch(), clusterings(ours)
    optimizer = torch.optim.SGD(ours.param_groups(), lr=0.1, momentum=0.9)
    for _ in range(2):
        with NoReads():
            total(ours(images, found)).backward()
            ours.before_step(0.5)
            optimizer.step()
            ours.after_step(0.5)


def test_views_are_made_without_a_look_at_the_images():
    pixels = torch.zeros(16, 3, 24, 24, dtype=torch.uint8, device="meta")
    draws = [draw_view(16, (24, 24), ALL, torch.Generator().manual_seed(view), view) for view in (0, 1)]
    for views in apply_views(pixels, draws):
        assert views.shape == pixels.shape
        assert views.is_meta

"""Each step sees the images it says, whole batches or parts, in one process or its share; from maps as from memory."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config, tiny_images

from shoal import distributed
from shoal.data import ViewConfig, order_of_epoch
from shoal.data.listing import as_images
from shoal.progress import Progress
from shoal.training import fit, loop
from shoal.training.loop import pixels_to_come
from shoal.training.run import Interrupted

STILL = ViewConfig(crop_scale=(1.0, 1.0), flip_p=0.0, jitter_p=0.0, grey_p=0.0)


def config_of(accumulate=1):
    """Views that chance does not touch."""
    config = tiny_config(augment=STILL)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=accumulate))


def mapped_images(folder):
    """The tiny images, their pixels mapped from a file."""
    images = tiny_images()
    images.pixels.numpy().tofile(folder / "pixels.u8")
    pixels = np.memmap(folder / "pixels.u8", np.uint8, mode="r", shape=tuple(images.pixels.shape))
    return as_images(pixels, images.targets.tolist(), images.classes, images.ids, {})


def watched(run):
    """The batches that the run's method will have seen."""
    batches = []
    run.method.register_forward_pre_hook(lambda _method, args: batches.append(args[0]))
    return batches


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_every_view_is_of_the_image_it_says_also_after_a_stop(tmp_path, accumulate):
    run = new_run(tmp_path, config_of(accumulate))
    batches = watched(run)
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(3)])
    run = reopened(tmp_path)
    more = watched(run)
    fit(run, Progress())
    assert (len(batches), len(more)) == (3 * accumulate, 3 * accumulate)
    for batch in batches + more:
        assert len(batch.index) == 16 // accumulate
        for view in (batch.view1, batch.view2):
            torch.testing.assert_close(view * 255, run.images.pixels[batch.index].float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_share_each_part(tmp_path, monkeypatch, accumulate):
    run = new_run(tmp_path, config_of(accumulate))
    run.state.order = order_of_epoch(run.images.clustered, run.batch_size, None, run.generator)
    run.state.step = 1
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    ranks = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        ranks.append(list(pixels_to_come(run)))
    assert len(ranks[0]) == accumulate  # the second of two batches; what is left over is not read
    whole = torch.cat([torch.cat(shares) for shares in zip(*ranks, strict=True)])
    assert torch.equal(whole, run.images.pixels[run.state.order[16:32]])


def test_a_run_from_a_map_is_the_run_from_memory(tmp_path):
    fit(new_run(tmp_path / "memory"), Progress())
    fit(new_run(tmp_path / "map", images=mapped_images(tmp_path)), Progress())
    same_files(tmp_path / "memory", tmp_path / "map")


def test_a_stop_closes_the_feed(tmp_path, monkeypatch):
    closed = []

    def feed(pixels, parts, _device):
        try:
            for rows in parts:
                yield pixels[rows]
        finally:
            closed.append(True)

    monkeypatch.setattr(loop, "feed", feed)
    run = new_run(tmp_path)
    with pytest.raises(Interrupted) as stop:
        fit(run, Progress(), [StopAfter(1)])
    assert closed == [True]
    del stop

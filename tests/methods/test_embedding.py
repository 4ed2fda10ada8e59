"""Features of many images: those that are clustered, and the backbone's."""

import dataclasses

import pytest
import torch
from tests.runs import tiny_config, tiny_images

from shoal.methods import BYOLConfig, build
from shoal.methods.embedding import embed_all, represent_all

CPU = torch.device("cpu")


@pytest.fixture(params=["propos", "byol"])
def method(request):
    config = tiny_config()
    if request.param == "byol":
        config = dataclasses.replace(config, method=BYOLConfig(hidden=16, dim=8))
    return build(config.method, config.backbone, 4, torch.Generator())


def test_the_backbone_is_the_targets_and_comes_before_any_head(method):
    with torch.no_grad():
        for p in method.online.parameters():
            p.add_(1.0)
    images, method = tiny_images(), method.train()
    backbone = method.target.network[0]
    found = represent_all(method, images.pixels, CPU, "float32")
    assert found.shape == (40, backbone.n_features)
    assert method.training
    with torch.no_grad():
        expected = method.eval().target.network[0](images.pixels / 255)
    torch.testing.assert_close(found, expected)


def test_what_is_clustered_is_the_head_on_the_backbone(method):
    images = tiny_images()
    features = represent_all(method, images.pixels, CPU, "float32")
    embedded = embed_all(method, images.pixels, CPU, "float32")
    with torch.no_grad():
        expected = method.eval().target.network[1](features)
    torch.testing.assert_close(embedded, torch.nn.functional.normalize(expected, dim=1))


def test_many_images_are_taken_in_batches_that_change_nothing(method):
    images, done = tiny_images(6000), []
    whole = embed_all(method, images.pixels, CPU, "float32", after_batch=lambda i, n: done.append((i, n)))
    assert len(done) > 1
    assert done[-1] == (6000, 6000)
    torch.testing.assert_close(whole[:40], embed_all(method, images.pixels[:40], CPU, "float32"))

"""Blocks computed again for the backward pass: the same bits in less memory."""

import pytest
import torch
from tests.runs import new_run, same_files, tiny_config

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.models import BackboneConfig, blocks_of, build_backbone, split_batch_norm
from shoal.progress import Progress
from shoal.training import fit


def passed(config, splits, *, recomputed):
    """Features of two passes, all gradients and buffers, and the bytes that were kept in between."""
    torch.manual_seed(0)
    backbone = split_batch_norm(build_backbone(config), splits)
    if recomputed:
        backbone.recompute_training()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.data_ptr() for p in backbone.parameters()}
    images = torch.rand(2, 16, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = [backbone(each) for each in images]
    size = sum(n for at, n in kept.items() if at not in weights)
    (features[0] * features[1]).sum().backward()
    return [*features, *(p.grad for p in backbone.parameters()), *backbone.buffers()], size


@pytest.mark.parametrize(
    ("config", "splits", "n_blocks"),
    [
        (BackboneConfig("small", width=8, depth=2), 1, 6),
        (BackboneConfig("small", width=8), 2, 3),
        pytest.param(BackboneConfig("resnet18", stem="cifar"), 1, 8, marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_in_half_the_memory(config, splits, n_blocks):
    assert len(blocks_of(build_backbone(config).network)) == n_blocks
    (plain, much), (again, little) = (passed(config, splits, recomputed=each) for each in (False, True))
    for one, two in zip(plain, again, strict=True):
        assert torch.equal(one, two)
    assert little < 0.55 * much


def test_the_whole_run_is_the_same(tmp_path):
    for each in (False, True):
        fit(new_run(tmp_path / str(each), tiny_config(recompute=each, cluster_from=0)), Progress())
    same_files(tmp_path / "False", tmp_path / "True")


def test_networks_whose_blocks_are_not_known_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="supports ResNets and the small net, not VisionTransformer"):
        build_backbone(BackboneConfig("vit_tiny_patch16_224")).recompute_training()
    assert main(["train", "propos-digits", "--recompute", "--compile", "on", "--out", str(tmp_path / "r")]) == 2
    assert "--recompute and --compile on exclude each other" in capsys.readouterr().err

import dataclasses

import pytest
import torch

from shoal.config import OptimConfig
from shoal.lars import LARS
from shoal.methods import SimSiamConfig, build
from shoal.models import BackboneConfig
from shoal.training.optim import build_optimizer, set_lr


def simsiam():
    backbone = BackboneConfig(name="small", width=4)
    return build(SimSiamConfig(dim=8, bottleneck=2), backbone, 4, torch.Generator())


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("lars", LARS)])
def test_the_optimiser_is_the_one_asked_for_and_moves_everything(name, kind):
    method = simsiam()
    optimizer = build_optimizer(method, OptimConfig(optimizer=name, momentum=0.8, weight_decay=0.1))
    assert type(optimizer) is kind
    inside = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in inside} == {id(p) for p in method.parameters() if p.requires_grad}
    assert len(inside) == len({id(p) for p in inside})
    group = optimizer.param_groups[0]
    assert (group["betas"][0] if name == "adam" else group["momentum"]) == 0.8


def test_lars_leaves_biases_and_batch_norm_alone():
    optimizer = build_optimizer(simsiam(), OptimConfig(optimizer="lars"))
    for group in optimizer.param_groups:
        assert all((p.ndim > 1) == group["adapt"] for p in group["params"])


def test_a_group_may_keep_its_rate_or_scale_it():
    optimizer = build_optimizer(simsiam(), OptimConfig())
    optimizer.param_groups[0]["lr_scale"] = 10
    set_lr(optimizer, 0.5, 0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    assert optimizer.param_groups[1]["lr"] == 0.5  # SimSiam's predictor, whose rate does not decay
    assert dataclasses.asdict(OptimConfig())["optimizer"] == "sgd"

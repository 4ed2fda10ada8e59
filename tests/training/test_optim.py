import copy
import dataclasses

import pytest
import torch
from timm.optim import Lars

from shoal.config import OptimConfig
from shoal.methods import SimSiamConfig, build
from shoal.models import BackboneConfig
from shoal.training.optim import build_optimizer, set_lr


def simsiam():
    backbone = BackboneConfig(name="small", width=4)
    return build(SimSiamConfig(dim=8, bottleneck=2), backbone, 4, torch.Generator())


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("lars", Lars)])
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
        assert all((p.ndim > 1) == group["always_adapt"] == (group["weight_decay"] > 0) for p in group["params"])


def test_a_group_may_keep_its_rate_or_scale_it():
    optimizer = build_optimizer(simsiam(), OptimConfig())
    optimizer.param_groups[0]["lr_scale"] = 10
    set_lr(optimizer, 0.5, 0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    assert optimizer.param_groups[1]["lr"] == 0.5  # SimSiam's predictor, whose rate does not decay
    assert dataclasses.asdict(OptimConfig())["optimizer"] == "sgd"


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_fused_step_is_the_plain_one_whatever_the_memory_format(name):
    config = OptimConfig(optimizer=name, lr=0.1)
    method = simsiam()
    plain = copy.deepcopy(method).to(memory_format=torch.contiguous_format)
    fast, slow = build_optimizer(method, config), build_optimizer(plain, config)
    assert any(not p.is_contiguous() for p in method.parameters())
    for group in slow.param_groups:
        group["fused"] = False
    for _ in range(3):
        for mine, other in zip(method.parameters(), plain.parameters(), strict=True):
            if mine.requires_grad:
                mine.grad = torch.randn_like(mine)
                other.grad = mine.grad.contiguous()
        for optimizer in (fast, slow):
            set_lr(optimizer, 0.1, 1.0)
            optimizer.step()
    for mine, other in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)

import numpy as np
import pytest
import torch
from tests.golden import golden
from torch import nn

from shoal.config import OptimConfig
from shoal.models import Target, momentum_at
from shoal.training.optim import lr_factor

DATA = golden("schedules")
EPOCHS, STEPS = int(DATA["epochs"]), int(DATA["iters_per_epoch"])


@pytest.mark.parametrize(("schedule", "name"), [("iteration", "lr_cosine"), ("epoch", "lr_cosine_epochwise")])
def test_the_rate_is_the_published_one(schedule, name):
    config = OptimConfig(warmup_epochs=int(DATA["warmup_epochs"]), schedule=schedule)
    rates = [float(DATA["base_lr"]) * lr_factor(step, STEPS, EPOCHS, config) for step in range(EPOCHS * STEPS)]
    np.testing.assert_allclose(rates, DATA[name].numpy(), rtol=1e-9)


def test_the_momentum_is_the_published_one():
    n = EPOCHS * STEPS
    rising = [momentum_at((step + 1) / n, float(DATA["ema_base"]), rising=True) for step in range(n)]
    np.testing.assert_allclose(rising, DATA["ema_cosine"].numpy(), rtol=1e-9)
    assert momentum_at(0.7, 0.996, rising=False) == 0.996


def test_no_warm_up_starts_at_the_full_rate():
    assert lr_factor(0, 1000, 1000, OptimConfig(warmup_epochs=0)) == pytest.approx(1)


def test_a_target_follows_parameters_and_keeps_its_own_statistics():
    online = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    target = Target(online, 0.9)
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1)
    online(torch.randn(8, 4))
    target.follow(online, 0.5)
    for new, old, theirs in zip(target.parameters(), before, online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * theirs)
    assert torch.equal(target.network[1].running_mean, torch.zeros(4))
    assert not any(p.requires_grad for p in target.parameters())

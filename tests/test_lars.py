"""LARS: the published steps, and a loop over one tensor at a time."""

import pytest
import torch
from torch import nn

from shoal.lars import LARS, without_adaptation
from tests.golden import golden


def parameters(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def test_the_published_steps():
    g = golden("lars")
    weight, bias = nn.Parameter(g["weight"].clone()), nn.Parameter(g["bias"].clone())
    settings = {key: float(g[key]) for key in ("lr", "momentum", "weight_decay", "trust_coefficient")}
    optimizer = LARS(without_adaptation([{"params": [weight, bias]}]), **settings)
    for grad_weight, grad_bias in zip(g["grads_weight"], g["grads_bias"], strict=True):
        weight.grad, bias.grad = grad_weight, grad_bias
        optimizer.step()
    torch.testing.assert_close(weight.detach(), g["weight_after"], rtol=1e-4, atol=0)
    torch.testing.assert_close(bias.detach(), g["bias_after"], rtol=1e-4, atol=0)


def test_many_tensors_at_once_equal_one_at_a_time():
    shapes = [(4, 3), (2, 3, 3, 3), (5, 1)]
    many, alone = parameters(*shapes), parameters(*shapes)
    together = LARS(many, lr=0.5, weight_decay=0.01)
    each = [LARS([p], lr=0.5, weight_decay=0.01) for p in alone]
    for step in range(3):
        for p, q, grad in zip(many, alone, parameters(*shapes, seed=step + 1), strict=True):
            p.grad = q.grad = grad.detach()
        together.step()
        for optimizer in each:
            optimizer.step()
    torch.testing.assert_close(many, alone)


def test_a_first_step_is_a_share_of_the_tensor():
    (weight,) = parameters((8, 8))
    before = weight.detach().clone()
    weight.grad = torch.randn(8, 8) * 1e4
    LARS([weight], lr=2.0, trust_coefficient=0.01).step()
    assert (weight - before).norm().item() == pytest.approx(0.02 * before.norm().item())


def test_zero_weights_and_zero_gradients_take_plain_steps():
    weight, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    weight.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([weight, still], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.1))
    torch.testing.assert_close(still.detach(), torch.ones(2, 2))


def test_what_has_no_gradient_stays():
    one, two = parameters((3, 3), (3, 3))
    one.grad = torch.ones(3, 3)
    before = two.detach().clone()
    optimizer = LARS([one, two], lr=0.1)
    optimizer.step()
    assert torch.equal(two.detach(), before)
    assert two not in optimizer.state


def test_the_gradient_is_left_as_it_was():
    for adapt in (True, False):
        (weight,) = parameters((3, 3))
        weight.grad = torch.ones(3, 3)
        optimizer = LARS([{"params": [weight], "adapt": adapt}], lr=0.1, weight_decay=1.0)
        optimizer.step()
        optimizer.step()
        assert torch.equal(weight.grad, torch.ones(3, 3))


def test_its_state_can_be_kept():
    def steps(optimizer, weight, n):
        for _ in range(n):
            weight.grad = weight.detach() ** 2
            optimizer.step()

    (whole,), (half,) = parameters((3, 3)), parameters((3, 3))
    optimizer = LARS([whole], lr=1.0)
    steps(optimizer, whole, 4)
    first = LARS([half], lr=1.0)
    steps(first, half, 2)
    second = LARS([half], lr=1.0)
    second.load_state_dict(first.state_dict())
    steps(second, half, 2)
    assert torch.equal(whole, half)


def test_a_closure_computes_the_gradient_and_its_loss_is_returned():
    (weight,) = parameters((3, 3))
    optimizer = LARS([weight], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > closure()


def test_one_dimension_is_set_apart_and_other_keys_are_kept():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = without_adaptation([{"params": list(net.parameters()), "lr_scale": 10.0}, {"params": [net[0].weight]}])
    assert [[p.ndim for p in group["params"]] for group in groups] == [[2], [1, 1, 1], [2]]
    assert [group.get("adapt", True) for group in groups] == [True, False, True]
    assert [group.get("lr_scale") for group in groups] == [10.0, 10.0, None]

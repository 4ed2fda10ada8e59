"""The convolutions of the small net against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shoal.models.small import SmallNet


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("biased", [False, True])
def test_convolutions_are_those_of_pytorch(side: int, memory_format: torch.memory_format, biased: bool) -> None:
    torch.manual_seed(0)
    layer = SmallNet(width=4, depth=1).layers[4].to(memory_format=memory_format).double()
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight.shape == (8, 4, 3, 3)
    if biased:  # as a folded batch-norm leaves it
        layer.bias = nn.Parameter(torch.randn(8, dtype=torch.float64))
    ours = torch.randn(5, 4, side, side, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_() if biased else None
    expected = F.conv2d(theirs, weight, bias, padding=1)
    found = layer(ours)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    if bias is not None:
        torch.testing.assert_close(layer.bias.grad, bias.grad)


def test_a_map_of_four_pixels_is_not_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("convolved")

    layer = SmallNet(width=4, depth=1).layers[4]
    monkeypatch.setattr(nn.Conv2d, "forward", refuse)
    assert layer(torch.ones(0, 4, 2, 2)).shape == (0, 8, 2, 2)
    with pytest.raises(AssertionError, match="convolved"):
        layer(torch.ones(5, 4, 3, 3))

"""Projection and prediction heads."""

from __future__ import annotations

from torch import nn


def mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Linear–BatchNorm–ReLU–Linear, the projector and predictor of BYOL (arXiv 2006.07733, section 3.3)."""
    return nn.Sequential(
        nn.Linear(n_in, n_hidden),
        nn.BatchNorm1d(n_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(n_hidden, n_out),
    )


def plain_mlp(n_in: int, n_out: int) -> nn.Sequential:
    """Linear–ReLU–Linear as wide as its input, the projector of SimCLR (arXiv 2002.05709, section 2.1) and MoCo v2."""
    return nn.Sequential(nn.Linear(n_in, n_in), nn.ReLU(inplace=True), nn.Linear(n_in, n_out))


def start_near_zero(head: nn.Module, std: float = 0.01) -> None:
    """Draw the Linear weights from N(0, std²) and set their biases to 0, as ProPos starts its predictor."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

"""A small plain net for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SmallNet(nn.Module):
    """Three stages of 3×3 convolutions at full, half and quarter resolution, then global average pooling.

    Channels double from stage to stage. There are no shortcuts: on images of 8 to 64 px a step consists of many small
    operations, and they would only add more.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.n_features = 4 * width
        layers: list[nn.Module] = []
        n_in = 3
        for stage in range(3):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                n_out = width * 2**stage
                layers += [_Convolution(n_in, n_out), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
                n_in = n_out
        self.layers = nn.Sequential(*layers)

    @property
    def stages(self) -> list[list[str]]:
        """Names of the parameters of each stage."""
        stages: list[list[str]] = [[]]
        for place, layer in enumerate(self.layers):
            if isinstance(layer, nn.MaxPool2d):
                stages.append([])
            stages[-1] += [f"layers.{place}.{name}" for name, _ in layer.named_parameters()]
        return stages

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of the last stage, averaged over the image; at least 4 px a side."""
        features: Tensor = self.layers(x).mean((2, 3))
        return features


class _Convolution(nn.Conv2d):
    """A 3×3 convolution that keeps the size of the map.

    On a 2×2 map, which is what is left of 8 px in the last stage, each output sees the whole map. One matrix product
    then takes half the time of the convolution, 5 of whose 9 taps lie on the padding.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """A map of the same size as ``x``."""
        if x.shape[2:] != (2, 2):
            convolved: Tensor = super().forward(x)
            return convolved
        taps = self.weight.permute(0, 2, 3, 1)
        # For the output at (row, column), the map's first pixel lies under the tap (1 - row, 1 - column).
        seen = [taps[:, 1 - row : 3 - row, 1 - column : 3 - column].flatten(1) for row in (0, 1) for column in (0, 1)]
        bias = None if self.bias is None else self.bias.repeat(4)  # a folded batch-norm leaves one
        pixels = F.linear(x.permute(0, 2, 3, 1).flatten(1), torch.cat(seen), bias)
        return pixels.reshape(-1, 2, 2, self.out_channels).permute(0, 3, 1, 2)

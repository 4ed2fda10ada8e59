"""A small plain net for small images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SmallNet(nn.Module):
    """Three stages of 3×3 convolutions at full, half and quarter resolution, then global average pooling.

    Channels double from stage to stage. Plain convolutions, since on images of 8 to 64 px a step is made of many small
    operations, and shortcuts would only add to their number.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.n_features = 4 * width
        layers: list[nn.Module] = []
        n_in = 3
        for stage in range(3):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers += _convolution(n_in, n_out := width * 2**stage)
                n_in = n_out
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of the last stage, averaged over the image; at least 4 px a side."""
        features: Tensor = self.layers(x).mean((2, 3))
        return features


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]

"""Features of several networks as one: each brought to its principal components and to equal weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from shoal.clustering.rows import subsample
from shoal.errors import UserError
from shoal.features.encoder import EncoderSpec
from shoal.tensors import read_tensors, write_tensors

JOINING = "joining.safetensors"
"""In the folder of the networks: what makes one matrix of the features of all."""

EXPLAINED = 0.95
"""Share of a network's variance that its principal components keep; see benchmarks/LOG.md."""

MAX_COMPONENTS = 256
"""Components of a network at most."""

_FITTED = 20_000
"""Rows that means and components are of at most, drawn at random: they hardly change with more."""

_ALIKE = 1e-10
"""Variance of unit rows that rounding explains, in float32."""


class Space(nn.Module):
    """Features of a network (b, d) to their r components: at unit length, about their mean, of mean square 1."""

    mean: Tensor
    axes: Tensor

    def __init__(self, mean: Float32[Tensor, "d"], axes: Float32[Tensor, "d r"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)

    @classmethod
    def fit(cls, features: Float[Tensor, "n d"]) -> Space:
        """Means and axes of some rows, in float64 until the end; rows that do not differ lie about the origin."""
        x = nn.functional.normalize(features.double())
        mean = x.mean(0)
        if float((x - mean).square().sum(1).mean()) < _ALIKE:
            mean = torch.zeros_like(mean)
        x -= mean
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        kept = int((values.cumsum(0) < EXPLAINED * values.sum()).sum()) + 1
        kept = min(kept, MAX_COMPONENTS, len(values))
        scale = values[:kept].sum().clamp(min=_ALIKE).rsqrt()
        return cls(mean.float(), (vectors[:, :kept] * scale).float())

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        """The components of features."""
        found: Tensor = (nn.functional.normalize(features.float()) - self.mean) @ self.axes
        return found


@dataclass(frozen=True, eq=False)
class Joining:
    """How features of several networks become one matrix: the components of each, side by side.

    Features of a network have unit length here, so that the longest do not count most, and lie about their mean. The
    components of each have the same mean square, 1, so that no network dominates by its width or its spread.
    """

    spaces: tuple[Space, ...]

    @staticmethod
    def sample(n: int) -> Int64[Tensor, "m"]:
        """Numbers of the rows that suffice to fit it, of n."""
        return subsample(n, _FITTED, torch.Generator().manual_seed(0))

    @classmethod
    def fit(cls, features: Sequence[Float[Tensor, "m _d"]]) -> Joining:
        """The joining of networks whose features have a row for each of the same images."""
        return cls(tuple(Space.fit(each) for each in features))

    @property
    def n_features(self) -> int:
        """Columns of the joint matrix."""
        return sum(space.axes.shape[1] for space in self.spaces)

    def join(self, features: Sequence[Float[Tensor, "b _d"]]) -> Float[Tensor, "b r"]:
        """The joint features of some images."""
        return torch.cat([space(each) for space, each in zip(self.spaces, features, strict=True)], 1)

    def spec(self, parts: Sequence[EncoderSpec]) -> EncoderSpec:
        """The spec of the joined networks; its digest is of their weights and of how they are joined."""
        digest = blake2b(digest_size=16)
        for part, space in zip(parts, self.spaces, strict=True):
            digest.update(part.digest.encode())
            for tensor in (space.mean, space.axes):
                digest.update(tensor.contiguous().numpy().tobytes())
        name = ",".join(part.name for part in parts)
        return EncoderSpec("joined", name, digest=digest.hexdigest(), parts=tuple(parts))

    def save(self, folder: Path) -> None:
        """Write it into the folder of the networks.

        Raises:
            UserError: the folder cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for number, space in enumerate(self.spaces):
            tensors |= {f"{number}.mean": space.mean, f"{number}.axes": space.axes}
        write_tensors(folder / JOINING, {"n": len(self.spaces)}, tensors)

    @classmethod
    def load(cls, folder: Path, spec: EncoderSpec) -> Joining:
        """Read what ``save`` wrote for some joined networks.

        Raises:
            UserError: it is gone or damaged, or is of other networks.
        """
        path = folder / JOINING
        if not path.is_file():
            raise UserError(f"{path} is gone, which says how the networks are joined: cluster the images again.")
        try:
            header, tensors = read_tensors(path)
            spaces = [Space(tensors[f"{i}.mean"], tensors[f"{i}.axes"]) for i in range(header["n"])]
            found = cls(tuple(spaces))
            same = found.spec(spec.parts).digest == spec.digest
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): cluster the images again.") from error
        if not same:
            raise UserError(f"{path} joins other networks than those that were clustered: cluster the images again.")
        return found


class JoinedNetworks(nn.Module):
    """Networks and their joint features, as a network to export."""

    def __init__(self, networks: Sequence[nn.Module], joining: Joining, inputs: Sequence[int]) -> None:
        """``inputs``: for each network, which of the ways that images are prepared in it takes."""
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.spaces = nn.ModuleList(joining.spaces)
        self.inputs = tuple(inputs)

    def forward(self, *images: Float[Tensor, "b 3 _h _w"]) -> Float[Tensor, "b r"]:
        """The joint features of images in [0, 1], which are given in each of the ways that they are prepared in."""
        each = zip(self.networks, self.spaces, self.inputs, strict=True)
        return torch.cat([space(network(images[place])) for network, space, place in each], 1)

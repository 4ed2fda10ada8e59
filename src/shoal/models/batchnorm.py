"""Batch-norm with statistics of the global batch, or of each of several parts of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shoal import distributed
from shoal.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


class _Renewed(nn.BatchNorm1d):
    """A batch-norm over inputs of any shape that replaces another one and takes over its parameters and buffers."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        for mine, other in zip(self.parameters(), norm.parameters(), strict=True):
            mine.requires_grad_(other.requires_grad)

    @property
    def share(self) -> float:
        """Weight of the latest statistics in the running ones."""
        return 0.1 if self.momentum is None else self.momentum

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Rows and maps alike."""


class SplitBatchNorm(_Renewed):
    """Normalises each of ``splits`` consecutive parts of a batch by its own statistics, as if on that many devices.

    What MoCo's shuffling needs on a single device: with shared statistics, a query and its key give each other away
    (arXiv 1911.05722, section 3.3). Running statistics are the mean over the parts.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, splits: int) -> None:
        super().__init__(norm)
        self.splits = splits

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Each part by itself in training, the running statistics otherwise."""
        if not self.training:
            return super().forward(x)
        means, variances, parts = [], [], []
        for part in x.chunk(self.splits):
            means.append(self.running_mean.clone())
            variances.append(self.running_var.clone())
            part = F.batch_norm(part, means[-1], variances[-1], self.weight, self.bias, True, self.share, self.eps)
            parts.append(part)
        self.running_mean.copy_(torch.stack(means).mean(0))
        self.running_var.copy_(torch.stack(variances).mean(0))
        self.num_batches_tracked.add_(1)
        return torch.cat(parts)


class SyncBatchNorm(_Renewed):
    """Normalises by the statistics of the global batch, on CPUs too, where torch's own does not work."""

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """With mean and variance of the global batch in training; in one process, a plain batch-norm."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *(1 for _ in axes[1:])]
        n = x.numel() // x.shape[1] * distributed.world_size()
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            own = torch.stack(torch.var_mean(values, axes, correction=0))
            variances, means = distributed.of_each_rank(own).unbind(1)
            mean = means.mean(0)
            # From centred values: E[x²] − E[x]² would cancel in float32.
            variance = (variances + (means - mean).square()).mean(0)
            scale = self.weight * torch.rsqrt(variance + self.eps)
            out = torch.addcmul((self.bias - mean * scale).view(shape), values, scale.view(shape))
        self.running_mean.lerp_(mean.detach(), self.share)
        self.running_var.lerp_(variance.detach() * n / max(n - 1, 1), self.share)
        self.num_batches_tracked.add_(1)
        return out.to(x.dtype)


def split_batch_norm(network: Network, splits: int) -> Network:
    """Give the network separate statistics for ``splits`` parts of the batch; one part changes nothing."""
    if splits > 1:
        _replace(network, lambda norm: SplitBatchNorm(norm, splits))
    return network


def sync_batch_norm(network: Network) -> Network:
    """Give the network statistics of the global batch.

    Raises:
        UserError: its statistics are already split.
    """
    if any(isinstance(part, SplitBatchNorm) for part in network.modules()):
        raise UserError(
            "batch-norm statistics cannot be both split and synchronised: set --method.bn-splits 1, or drop "
            "--sync-batch-norm."
        )
    _replace(network, SyncBatchNorm)
    return network


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Give all ranks the mean of their running statistics.

    Averaging after each step would give the same: running statistics are linear in those of the batches.
    """
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    found = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    distributed.average(found)


def _replace(network: nn.Module, renew: Callable[[nn.BatchNorm1d | nn.BatchNorm2d], nn.Module]) -> None:
    """Replace every plain batch-norm; names in the state dict stay."""
    for name, child in network.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
            setattr(network, name, renew(child))  # type: ignore[arg-type] # checked above
        else:
            _replace(child, renew)

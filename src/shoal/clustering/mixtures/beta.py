"""A mixture of two beta distributions, which tells low values in [0, 1] from high ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from shoal.clustering.inputs import ArrayOrTensor, TakesTensors, as_input_type
from shoal.clustering.mixtures.em import LITTLE
from shoal.clustering.parameters import Array, check_counts, check_not_negative, hinting, precision_of
from shoal.clustering.rows import invalid_features_error
from shoal.errors import UserError

EDGE = 1e-4
"""Values are clamped to this distance from 0 and 1, where a density may be infinite; no component is narrower."""


class BetaMixture(TakesTensors, DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A mixture of two beta distributions for values in [0, 1], with scikit-learn's interface.

    Arazo et al. 2019, "Unsupervised Label Noise Modeling and Loss Correction", section 3.1, tell clean from noisy
    labels by it, from the losses of their images scaled to [0, 1]. Component 0 has the smaller mean.

    As in the published code, a run starts from Beta(1, 2) and Beta(2, 1) with equal weights, values are clamped to
    [1e-4, 1 − 1e-4], and the update matches a component to the mean m and the variance v of its values:
    α = m (m (1 − m) / v − 1) and β = (1 − m) (m (1 − m) / v − 1). That is not the maximum-likelihood estimate, so this
    is not exactly EM: an update may lower the likelihood. The bound is therefore reported but neither ends a run nor
    chooses a mixture: for losses much closer to zero than a beta distribution can be, the most likely mixture of a run
    separates the components worst.

    Given a tensor, it works on the tensor's device and returns tensors there (``fit``: its attributes); given anything
    else that scikit-learn accepts as an array, it returns numpy arrays. Computations are in float64; results about
    values have their precision.

    Args:
        max_iter: the most mixtures tried. The published code makes 10 updates without checking convergence; components
            that overlap need hundreds.
        tol: a run ends when an update changes the probability of component 1, averaged over the values, by no more
            than this.

    Attributes:
        alphas_: float64 (2,), α of each component.
        betas_: float64 (2,), β of each component.
        weights_: float64 (2,), they sum to 1.
        lower_bound_: mean log density of the values it was fitted on, ``score`` of them.
        converged_: whether the run ended before ``max_iter``.
        n_iter_: mixtures tried.
        n_features_in_: 1.
    """

    @hinting
    def __init__(self, *, max_iter: int = 1000, tol: float = 1e-5) -> None:
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayOrTensor, y: object = None) -> BetaMixture:
        """Find the two distributions of values (n,) or (n, 1); ``y`` is ignored.

        Raises:
            UserError: no values, NaN, values outside [0, 1], several columns; bad parameters.
        """
        check_counts(max_iter=self.max_iter)
        check_not_negative(tol=self.tol)
        values = self._values(X, reset=True)
        if not len(values):
            raise UserError("X holds no values (n_samples=0): give at least one.")
        x = _inside(values)
        mixture, self.lower_bound_, self.n_iter_, self.converged_ = _run(x, self.max_iter, self.tol)
        order = (mixture.alphas / (mixture.alphas + mixture.betas)).argsort(stable=True)
        self.alphas_: Array | Tensor = as_input_type(X, mixture.alphas[order])
        self.betas_: Array | Tensor = as_input_type(X, mixture.betas[order])
        self.weights_: Array | Tensor = as_input_type(X, mixture.weights[order])
        if not self.converged_:
            warnings.warn(
                f"updates still moved more than tol={self.tol} after max_iter={self.max_iter}: raise either.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The more probable component of each value, int64 (n,)."""
        return as_input_type(X, self._log_joint(self._values(X)).argmax(1))

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each component given the value, (n, 2)."""
        values = self._values(X)
        return as_input_type(X, self._log_joint(values).softmax(1).to(precision_of(values)))

    def score_samples(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Log density of each value, (n,); of values nearer to 0 or 1 than 1e-4, that at 1e-4 from it."""
        values = self._values(X)
        return as_input_type(X, self._log_joint(values).logsumexp(1).to(precision_of(values)))

    def score(self, X: ArrayOrTensor, y: object = None) -> float:
        """Mean log density of the values."""
        return float(self._log_joint(self._values(X)).logsumexp(1).mean())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "alphas_")

    def _values(self, X: Array | Tensor, *, reset: bool = False) -> Float[Tensor, "n"]:
        """The values as a tensor.

        Raises:
            UserError: several columns, NaN, values outside [0, 1].
        """
        if _is_flat(X):
            X = (X if isinstance(X, Tensor) else np.asarray(X))[:, None]
        features = self._features(X, reset=reset)
        if features.shape[1] != 1:
            raise UserError(f"X has shape {tuple(features.shape)}: give one value a row, (n,) or (n, 1).")
        values = features.detach()[:, 0]
        if not torch.isfinite(values).all():
            raise invalid_features_error(features)
        outside = int(((values < 0) | (values > 1)).sum())
        if outside:
            raise UserError(
                f"{outside} of {len(values)} values lie outside [0, 1]: scale them, such as by (x − min) / (max − min)."
            )
        return values

    def _log_joint(self, values: Float[Tensor, "n"]) -> Float64[Tensor, "n 2"]:
        parts = (torch.as_tensor(part, device=values.device) for part in (self.alphas_, self.betas_, self.weights_))
        return _Mixture(*parts).log_joint(_inside(values))


@dataclass(frozen=True, eq=False)
class _Mixture:
    """Two beta distributions with weights."""

    alphas: Float64[Tensor, "2"]
    betas: Float64[Tensor, "2"]
    weights: Float64[Tensor, "2"]

    def log_joint(self, x: Float64[Tensor, "n"]) -> Float64[Tensor, "n 2"]:
        """Log w_k + log Beta(x | α_k, β_k) for each value and component."""
        constant = torch.lgamma(self.alphas + self.betas) - torch.lgamma(self.alphas) - torch.lgamma(self.betas)
        powers = x.log()[:, None] * (self.alphas - 1) + torch.log1p(-x)[:, None] * (self.betas - 1)
        return self.weights.log() + constant + powers

    def update(self, x: Float64[Tensor, "n"], shares: Float64[Tensor, "n 2"]) -> _Mixture:
        """The next mixture, by moments; an empty component keeps its shape."""
        counts = shares.sum(0)
        means = shares.T @ x / counts
        variances = (shares * (x[:, None] - means).square()).sum(0) / counts
        # m (1 − m) − v is the mean of x (1 − x), which does not cancel.
        spreads = shares.T @ (x * (1 - x)) / counts
        concentrations = spreads / variances.clamp(min=EDGE**2)
        some = counts > LITTLE
        weights = (counts + LITTLE) / (counts + LITTLE).sum()
        alphas = torch.where(some, means * concentrations, self.alphas)
        betas = torch.where(some, (1 - means) * concentrations, self.betas)
        return _Mixture(alphas, betas, weights)


def _run(x: Float64[Tensor, "n"], max_iter: int, tol: float) -> tuple[_Mixture, float, int, bool]:
    """The final mixture, its bound, the number of mixtures tried, and whether they converged."""
    one, two = x.new_tensor([1.0, 2.0]), x.new_tensor([2.0, 1.0])
    mixture, before = _Mixture(one, two, x.new_tensor([0.5, 0.5])), None
    for n_iter in range(1, max_iter + 1):
        joint = mixture.log_joint(x)
        density = joint.logsumexp(1, keepdim=True)
        shares = (joint - density).exp_()
        converged = before is not None and bool((shares[:, 1] - before[:, 1]).abs().mean() <= tol)
        if converged or n_iter == max_iter:
            break
        mixture, before = mixture.update(x, shares), shares
    return mixture, float(density.mean()), n_iter, converged


def _is_flat(X: Array | Tensor) -> bool:
    try:
        return np.ndim(X) == 1
    except ValueError:  # rows of different lengths: scikit-learn's check of matrices says so
        return False


def _inside(values: Float[Tensor, "n"]) -> Float64[Tensor, "n"]:
    return values.double().clamp(EDGE, 1 - EDGE)

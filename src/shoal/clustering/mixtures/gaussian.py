"""Gaussian mixtures with scikit-learn's interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from shoal.clustering.inputs import ArrayOrTensor, TakesTensors, as_input_type, warn_if_fewer
from shoal.clustering.kmeans.restarts import assign, kmeans
from shoal.clustering.mixtures.em import CovarianceType, Fit, Mixture, expectation_maximisation, mixture_of
from shoal.clustering.parameters import (
    Array,
    centers_from,
    check_choice,
    check_counts,
    check_n_clusters,
    check_not_negative,
    generator_from,
    precision_of,
)
from shoal.clustering.rows import Metric, Rows, invalid_features_error, too_far, unit_length


class Responsibilities(nn.Module):
    """Probability of each Gaussian of a mixture given the row, computed in float64, in the features' precision."""

    def __init__(self, mixture: Mixture, shift: Float64[Tensor, "d"], metric: Metric) -> None:
        """``mixture`` is in the coordinates of rows less ``shift``."""
        super().__init__()
        self.mixture, self.shift, self.cosine = mixture, shift, metric == "cosine"
        # Checks the covariances and is kept: an exported network cannot check.
        _ = mixture.log_determinant, mixture.far_apart

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each component."""
        return self.log_joint(features).softmax(1).to(precision_of(features))

    def log_joint(self, features: Float[Tensor, "b d"]) -> Float64[Tensor, "b k"]:
        """Log of the joint density of each row and component."""
        x = unit_length(features.double()) if self.cosine else features.double()
        return self.mixture.log_joint(x - self.shift)


class GaussianMixture(TakesTensors, DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A mixture of Gaussians for arrays and tensors, with scikit-learn's interface.

    Given a tensor, it works on the tensor's device and returns tensors there (``fit``: its attributes); given anything
    else that scikit-learn accepts as an array, it returns numpy arrays. Computations are in float64, because small
    variances cancel in float32, a chunk of rows at a time; results about rows have their precision.

    Under the cosine, rows are scaled to unit length and k-means is spherical. As published with ProPos (Huang et al.
    2021, arXiv 2111.11821), each mean is scaled to unit length after each update, and the covariance of its component
    is taken about that point. For "spherical" this is the most likely mixture with such means, and no update lowers the
    bound; for the others it is not, and a run ends before the bound would fall. Densities remain those of Gaussians in
    all d dimensions, not of distributions on the sphere, so bounds are comparable only with each other.

    Args:
        n_components: k.
        metric: "euclidean", or "cosine" for rows that count by direction alone.
        covariance_type: "full", each component its own covariance; "tied", all the same one; "diag", each its own
            variance per feature; "spherical", each a single variance.
        tol: a run ends when an update raises its bound by no more than this; the update is discarded (scikit-learn
            keeps it and makes one more).
        reg_covar: added to the variances, which keeps them positive where rows repeat.
        max_iter: the most mixtures tried in a run.
        n_init: runs, each from another k-means, of which the one with the highest bound is kept.
        means_init: (k, d) means from which a single run starts instead of k-means. The rows nearest to each give
            its weight and covariance.
        random_state: an int makes the result reproducible; None draws new seeds each time.

    Attributes:
        labels_: int64 (n,), the most probable component of each row.
        weights_: float64 (k,), they sum to 1.
        means_: float64 (k, d), at unit length for the cosine.
        covariances_: float64, full (k, d, d), tied (d, d), diag (k, d), spherical (k,).
        lower_bound_: mean log density of the rows it was fitted on, ``score`` of them.
        converged_: whether the run that was kept ended before ``max_iter``.
        n_iter_: mixtures tried in the run that was kept.
        n_features_in_: d.
    """

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = 1,
        *,
        metric: Metric = "euclidean",
        covariance_type: CovarianceType = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        means_init: Array | Tensor | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.metric = metric
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.means_init = means_init
        self.random_state = random_state

    def fit(self, X: ArrayOrTensor, y: object = None) -> GaussianMixture:
        """Find the Gaussians of rows (n, d); ``y`` is ignored.

        Raises:
            UserError: fewer rows than components, NaN, infinity, a zero row under the cosine, rows whose squared
                distances overflow; a covariance that is not positive definite; bad parameters.
        """
        features = self._features(X, reset=True)
        self._check(len(features))
        rows = Rows(features, self.metric, dtype=torch.float64)
        mean, variance = rows.moments()
        # The largest sum of squared distances that k-means, in the rows' own precision, could come to.
        if not variance * 4 * len(rows) * features.numel() < torch.finfo(precision_of(features)).max:
            raise too_far(features)
        if self.metric == "euclidean":
            rows = Rows(features, self.metric, mean, torch.float64)
        runs = (
            expectation_maximisation(rows, start, reg_covar=self.reg_covar, tol=self.tol, max_iter=self.max_iter)
            for start in self._starts(rows)
        )
        best: Fit = max(runs, key=lambda run: run.lower_bound)
        self.lower_bound_, self.converged_, self.n_iter_ = best.lower_bound, best.converged, best.n_iter
        self.weights_: Array | Tensor = as_input_type(X, best.mixture.weights)
        self.means_: Array | Tensor = as_input_type(X, best.mixture.means + rows.shift)
        self.covariances_: Array | Tensor = as_input_type(X, best.mixture.covariances)
        self.labels_: Array | Tensor = self.predict(X)
        if not best.converged:
            warnings.warn(
                f"EM still gained more than tol={self.tol} after max_iter={self.max_iter}: raise either.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def fit_predict(self, X: ArrayOrTensor, y: object = None) -> ArrayOrTensor:
        """Fit, then the most probable component of each row, int64 (n,)."""
        return self.fit(X).labels_  # type: ignore[return-value]

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The most probable component of each row, int64 (n,)."""
        features = self._features(X)
        labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
        for part, joint in self._log_joint(features):
            labels[part] = joint.argmax(1)
        return as_input_type(X, labels)

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each component given the row, (n, k): the responsibilities."""
        features = self._features(X)
        shares = features.new_empty(len(features), len(self.weights_), dtype=precision_of(features))
        for part, joint in self._log_joint(features):
            shares[part] = joint.softmax(1).to(shares.dtype)
        return as_input_type(X, shares)

    def score_samples(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Log density of each row, (n,)."""
        features = self._features(X)
        return as_input_type(X, self._log_density(features).to(precision_of(features)))

    def score(self, X: ArrayOrTensor, y: object = None) -> float:
        """Mean log density of the rows."""
        return float(self._log_density(self._features(X)).mean())

    def bic(self, X: ArrayOrTensor) -> float:
        """Bayesian information criterion, −2 log L + p log n for p free parameters; less is better."""
        return -2 * len(X) * self.score(X) + self._n_parameters() * math.log(len(X))

    def aic(self, X: ArrayOrTensor) -> float:
        """Akaike information criterion, −2 log L + 2 p for p free parameters; less is better."""
        return -2 * len(X) * self.score(X) + 2 * self._n_parameters()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "means_")

    def _check(self, n: int) -> None:
        check_choice(self.covariance_type, CovarianceType, "covariance_type")
        check_n_clusters(n, n_components=self.n_components)
        check_counts(n_init=self.n_init, max_iter=self.max_iter)
        check_not_negative(tol=self.tol, reg_covar=self.reg_covar)

    def _starts(self, rows: Rows) -> Iterator[Mixture]:
        """The initial mixture of each run, in the coordinates of the rows."""
        if self.means_init is not None:
            shape = (self.n_components, rows.features.shape[1])
            given = centers_from(self.means_init, rows, shape, "means_init")
            labels, _, _ = assign(rows.features, given + rows.shift, self.metric)
            yield replace(self._of_clusters(rows, labels, given), means=given)
            return
        generator = generator_from(self.random_state)
        for _ in range(self.n_init):
            found = kmeans(rows.features, self.n_components, generator=generator, metric=self.metric, n_init=1)
            warn_if_fewer(len(torch.unique(found.labels)), self.n_components)
            yield self._of_clusters(rows, found.labels, rows.prepare(found.centers))

    def _of_clusters(self, rows: Rows, labels: Int64[Tensor, "n"], centers: Float64[Tensor, "k d"]) -> Mixture:
        return mixture_of(rows, labels, centers, self.covariance_type, self.reg_covar)

    def _log_density(self, features: Float[Tensor, "n d"]) -> Float64[Tensor, "n"]:
        density = torch.empty(len(features), dtype=torch.float64, device=features.device)
        for part, joint in self._log_joint(features):
            density[part] = joint.logsumexp(1)
        return density

    def _log_joint(self, features: Float[Tensor, "n d"]) -> Iterator[tuple[slice, Float64[Tensor, "b k"]]]:
        """Slices of the rows, and the log of their joint density with each component."""
        module = self._module(features.device)
        for part in Rows(features, self.metric, dtype=torch.float64).parts(len(self.weights_)):
            joint = module.log_joint(features[part])
            if not torch.isfinite(joint).all():
                raise invalid_features_error(features)
            yield part, joint

    def as_module(self) -> Responsibilities:
        """The probabilities as a network."""
        return self._module(torch.device("cpu"))

    def _module(self, device: torch.device) -> Responsibilities:
        weights, means, covariances = (
            torch.as_tensor(value, device=device) for value in (self.weights_, self.means_, self.covariances_)
        )
        shift = means.mean(0) if self.metric == "euclidean" else torch.zeros_like(means[0])
        return Responsibilities(Mixture(weights, means - shift, covariances, self.covariance_type), shift, self.metric)

    def _n_parameters(self) -> int:
        """Free parameters: means (of unit length for the cosine), covariances and weights that sum to 1."""
        k, d = self.means_.shape
        each = d * (d + 1) // 2
        of_covariances = {"full": k * each, "tied": each, "diag": k * d, "spherical": k}[self.covariance_type]
        of_means = k * (d if self.metric == "euclidean" else d - 1)
        return int(of_means + of_covariances + k - 1)

"""Gaussian mixtures with scikit-learn's interface."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from shoal.clustering.inputs import ArrayOrTensor, TakesTensors, as_input_type, warn_if_fewer
from shoal.clustering.kmeans.init import random_seeds, seeds
from shoal.clustering.kmeans.restarts import assign, kmeans
from shoal.clustering.mixtures.em import (
    CovarianceType,
    Fit,
    Mixture,
    covariance_shape,
    expectation_maximisation,
    mixture_of,
)
from shoal.clustering.mixtures.starts import given_covariances, given_means, given_weights, random_mixture
from shoal.clustering.parameters import (
    Array,
    centers_from,
    check_choice,
    check_counts,
    check_n_clusters,
    check_not_negative,
    generator_from,
    hinting,
    precision_of,
)
from shoal.clustering.rows import Metric, Rows, Shards, invalid_features_error, too_far, unit_length
from shoal.errors import UserError

InitParams = Literal["kmeans", "k-means++", "random", "random_from_data"]


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
        return self.log_scores(features).softmax(1).to(precision_of(features))

    def log_scores(self, features: Float[Tensor, "b d"]) -> Float64[Tensor, "b k"]:
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
        max_iter: the most mixtures tried in a run; 0 keeps the start.
        n_init: runs, each from another start, of which the one with the highest bound is kept.
        init_params: what a run starts from: "kmeans"; rows that are drawn by "k-means++" or uniformly
            ("random_from_data"), of which those nearest to each give its weight and covariance; or "random" shares.
        means_init: (k, d) means from which a single run starts instead; the rows nearest to each give its weight and
            covariance.
        weights_init: (k,) weights to start from.
        precisions_init: inverses of the covariances to start from, in the shape of ``covariances_``.
        warm_start: whether ``fit`` goes on from the mixture that an earlier ``fit`` found: a single run of at most
            ``max_iter`` further updates, of which none is kept that gains no more than ``tol``. Fits of one update
            each come to the mixture of a single fit.
        verbose: whether to print when a run starts and ends.
        random_state: an int makes the result reproducible; None draws new seeds each time.
        sharded: as in ``KMeans``; for a start from "kmeans", or from given means.

    Attributes:
        labels_: int64 (n,), the most probable component of each row.
        weights_: float64 (k,), they sum to 1.
        means_: float64 (k, d), at unit length for the cosine.
        covariances_: float64, full (k, d, d), tied (d, d), diag (k, d), spherical (k,).
        lower_bound_: mean log density of the rows it was fitted on, ``score`` of them.
        lower_bounds_: that of each mixture tried in the run that was kept.
        converged_: whether the run that was kept ended before ``max_iter``.
        n_iter_: mixtures tried in the run that was kept; after a warm start without the one that it began with.
        n_features_in_: d.
    """

    @hinting
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
        init_params: InitParams = "kmeans",
        means_init: Array | Tensor | None = None,
        weights_init: Array | Tensor | None = None,
        precisions_init: Array | Tensor | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        sharded: bool = False,
    ) -> None:
        self.n_components = n_components
        self.metric = metric
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.means_init = means_init
        self.weights_init = weights_init
        self.precisions_init = precisions_init
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.sharded = sharded

    def fit(self, X: ArrayOrTensor, y: object = None) -> GaussianMixture:
        """Find the Gaussians of rows (n, d); ``y`` is ignored.

        Raises:
            UserError: fewer rows than components, NaN, infinity, a zero row under the cosine, rows whose squared
                distances overflow; a covariance that is not positive definite; bad parameters; a warm start from a
                mixture of other shapes.
        """
        continued = bool(self.warm_start) and hasattr(self, "means_")
        features = self._features(X, reset=True)
        shards = Shards(self.sharded)
        n = shards.total(len(features))
        self._check(n)
        rows = Rows(features, self.metric, dtype=torch.float64)
        mean, variance = rows.moments(shards)
        # The largest sum of squared distances that k-means, in the rows' own precision, could come to.
        if not variance * 4 * n**2 * features.shape[1] < torch.finfo(precision_of(features)).max:
            raise too_far(features)
        if self.metric == "euclidean":
            rows = Rows(features, self.metric, mean, torch.float64)
        starts = [self._earlier(rows)] if continued else self._starts(rows)
        runs = (self._run(rows, number, start, continued) for number, start in enumerate(starts))
        best: Fit = max(runs, key=lambda run: run.lower_bound)
        self.lower_bound_, self.converged_, self.n_iter_ = best.lower_bound, best.converged, len(best.bounds)
        self.lower_bounds_ = best.bounds
        self.weights_: Array | Tensor = as_input_type(X, best.mixture.weights)
        self.means_: Array | Tensor = as_input_type(X, best.mixture.means + rows.shift)
        self.covariances_: Array | Tensor = as_input_type(X, best.mixture.covariances)
        self.labels_: Array | Tensor = self.predict(X)
        if self.max_iter and not best.converged:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
                "tol, or check for degenerate data.",
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

    def log_scores(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Log of the joint density of each row and component, float64 (n, k): what ``predict_proba`` rounds."""
        features = self._features(X)
        scores = features.new_empty(len(features), len(self.weights_), dtype=torch.float64)
        for part, joint in self._log_joint(features):
            scores[part] = joint
        return as_input_type(X, scores)

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

    def sample(self, n_samples: int = 1) -> tuple[Array | Tensor, Array | Tensor]:
        """Rows (n, d) drawn from the mixture, component by component, and the component of each, int64 (n,)."""
        from sklearn.utils.validation import check_is_fitted  # slow to import

        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise UserError(f"Invalid value for 'n_samples': {n_samples!r} must be a whole number, at least 1.")
        generator = generator_from(self.random_state)
        weights, means, _ = self._parameters(torch.device("cpu"))
        labels = weights.multinomial(int(n_samples), replacement=True, generator=generator).sort().values
        rows = torch.randn(len(labels), means.shape[1], generator=generator, dtype=torch.float64)
        spread = self._lower_factors()
        rows = rows * spread[labels] if spread.ndim == 2 else torch.einsum("nij,nj->ni", spread[labels], rows)
        like = torch.as_tensor(self.means_).device
        found = (rows + means[labels]).to(like), labels.to(like)
        return found if isinstance(self.means_, Tensor) else (found[0].numpy(), found[1].numpy())

    def _lower_factors(self) -> Float64[Tensor, "k d *d"]:
        """What a standard normal is multiplied by: matrices for "full" and "tied", else deviations."""
        k, d = self.means_.shape
        covariances = torch.as_tensor(self.covariances_).cpu()
        if self.covariance_type == "spherical":
            return covariances.sqrt()[:, None].expand(k, d)
        if self.covariance_type == "diag":
            return covariances.sqrt()
        factors: Tensor = torch.linalg.cholesky(covariances)
        return factors.expand(k, d, d)

    @property
    def precisions_(self) -> Array | Tensor:
        """Inverses of the covariances, float64, in their shape."""
        covariances = torch.as_tensor(self.covariances_)
        full = self.covariance_type in ("full", "tied")
        return self._as_fitted(torch.linalg.inv(covariances) if full else 1 / covariances)

    @property
    def precisions_cholesky_(self) -> Array | Tensor:
        """Upper triangular factors of the precisions, or their roots, float64, in the shape of the covariances."""
        covariances = torch.as_tensor(self.covariances_)
        if self.covariance_type in ("diag", "spherical"):
            return self._as_fitted(covariances.rsqrt())
        return self._as_fitted(self._module(covariances.device).mixture.whitening)

    def _as_fitted(self, values: Tensor) -> Array | Tensor:
        return values if isinstance(self.means_, Tensor) else values.numpy()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "means_")

    def _check(self, n: int) -> None:
        check_choice(self.covariance_type, CovarianceType, "covariance_type")
        check_n_clusters(n, n_components=self.n_components)
        check_choice(self.init_params, InitParams, "init_params")
        check_counts(n_init=self.n_init)
        if self.max_iter != 0:
            check_counts(max_iter=self.max_iter)
        check_not_negative(tol=self.tol, reg_covar=self.reg_covar)
        if self.sharded and self.init_params != "kmeans" and self.means_init is None:
            raise UserError(f"sharded=True does not start from {self.init_params!r}: take init_params='kmeans'.")

    def _run(self, rows: Rows, number: int, start: Mixture, continued: bool) -> Fit:
        """EM from a start."""
        if self.verbose:
            sys.stdout.write(f"Initialization {number}\n")
        fit = expectation_maximisation(
            rows,
            start,
            reg_covar=self.reg_covar,
            tol=self.tol,
            max_iter=self.max_iter,
            continued=continued,
            shards=Shards(self.sharded),
        )
        if self.verbose:
            how = "converged" if fit.converged else "did not converge"
            sys.stdout.write(
                f"Initialization {how} after {len(fit.bounds)} mixtures, lower bound {fit.lower_bound:.5f}.\n"
            )
        return fit

    def _earlier(self, rows: Rows) -> Mixture:
        """The mixture that an earlier ``fit`` found, in the coordinates of the rows."""
        weights, means, covariances = self._parameters(rows.features.device)
        k, d = self.n_components, rows.features.shape[1]
        shape = covariance_shape(self.covariance_type, k, d)
        if means.shape != (k, d) or covariances.shape != shape:
            raise UserError(
                f"warm_start=True continues from a mixture with means {tuple(means.shape)} and covariances "
                f"{tuple(covariances.shape)}, but {(k, d)} and {shape} are needed: set warm_start=False to start anew."
            )
        return Mixture(weights, means - rows.shift, covariances, self.covariance_type)

    def _starts(self, rows: Rows) -> Iterator[Mixture]:
        """The initial mixture of each run, in the coordinates of the rows, with what is given in place of its own."""
        k, d, device = self.n_components, rows.features.shape[1], rows.features.device
        given: dict[str, Any] = {}
        if self.weights_init is not None:
            given["weights"] = given_weights(self.weights_init, k, device)
        if self.precisions_init is not None:
            given["covariances"] = given_covariances(self.precisions_init, self.covariance_type, k, d, device)
        return (replace(start, **given) for start in self._own_starts(rows))

    def _own_starts(self, rows: Rows) -> Iterator[Mixture]:
        if self.means_init is not None:
            shape = (self.n_components, rows.features.shape[1])
            yield self._about(rows, centers_from(given_means(self.means_init, *shape), rows, shape, "means_init"))
            return
        generator = generator_from(self.random_state)
        if self.init_params in ("k-means++", "random_from_data"):
            draw = seeds if self.init_params == "k-means++" else random_seeds
            yield from (self._about(rows, each) for each in draw(rows, self.n_components, self.n_init, generator))
            return
        for _ in range(self.n_init):
            if self.init_params == "random":
                kind, reg_covar = self.covariance_type, self.reg_covar
                yield random_mixture(rows, self.n_components, kind, reg_covar, generator)
                continue
            found = kmeans(
                rows.features,
                self.n_components,
                generator=generator,
                metric=self.metric,
                n_init=1,
                sharded=self.sharded,
            )
            sizes = Shards(self.sharded).sum(torch.bincount(found.labels, minlength=self.n_components))
            warn_if_fewer(int((sizes > 0).sum()), self.n_components)
            yield self._of_clusters(rows, found.labels, rows.prepare(found.centers))

    def _about(self, rows: Rows, means: Float64[Tensor, "k d"]) -> Mixture:
        """These means, with weight and covariance of the rows nearest to each."""
        labels, _, _ = assign(rows.features, means + rows.shift, self.metric)
        return replace(self._of_clusters(rows, labels, means), means=means)

    def _of_clusters(self, rows: Rows, labels: Int64[Tensor, "n"], centers: Float64[Tensor, "k d"]) -> Mixture:
        shards = Shards(self.sharded)
        return mixture_of(rows, labels, centers, self.covariance_type, self.reg_covar, shards)

    def _log_density(self, features: Float[Tensor, "n d"]) -> Float64[Tensor, "n"]:
        density = torch.empty(len(features), dtype=torch.float64, device=features.device)
        for part, joint in self._log_joint(features):
            density[part] = joint.logsumexp(1)
        return density

    def _log_joint(self, features: Float[Tensor, "n d"]) -> Iterator[tuple[slice, Float64[Tensor, "b k"]]]:
        """Slices of the rows, and the log of their joint density with each component."""
        module = self._module(features.device)
        for part in Rows(features, self.metric, dtype=torch.float64).parts(len(self.weights_)):
            joint = module.log_scores(features[part])
            if not torch.isfinite(joint).all():
                raise invalid_features_error(features)
            yield part, joint

    def as_module(self) -> Responsibilities:
        """The probabilities as a network."""
        return self._module(torch.device("cpu"))

    def _module(self, device: torch.device) -> Responsibilities:
        weights, means, covariances = self._parameters(device)
        shift = means.mean(0) if self.metric == "euclidean" else torch.zeros_like(means[0])
        return Responsibilities(Mixture(weights, means - shift, covariances, self.covariance_type), shift, self.metric)

    def _parameters(self, device: torch.device) -> list[Float64[Tensor, "..."]]:
        return [torch.as_tensor(value, device=device) for value in (self.weights_, self.means_, self.covariances_)]

    def _n_parameters(self) -> int:
        """Free parameters: means (of unit length for the cosine), covariances and weights that sum to 1."""
        k, d = self.means_.shape
        each = d * (d + 1) // 2
        of_covariances = {"full": k * each, "tied": each, "diag": k * d, "spherical": k}[self.covariance_type]
        of_means = k * (d if self.metric == "euclidean" else d - 1)
        return int(of_means + of_covariances + k - 1)

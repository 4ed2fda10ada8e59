"""What the tests of refusals share: calls, matrices to spoil, and what a refusal looks like."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from shoal.clustering import GaussianMixture, KMeans
from shoal.clustering.kmeans import assign, kmeans
from shoal.errors import UserError

METRICS = ("euclidean", "cosine")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
quickly = settings(
    deadline=None,
    derandomize=True,
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],  # what is drawn is small already
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
by_every_metric = pytest.mark.parametrize("metric", METRICS)


def fit_kmeans(x, metric="euclidean", k=2, **more):
    return KMeans(k, metric=metric, n_init=1, random_state=0, **more).fit(x)


def fit_mixture(x, metric="euclidean", k=2, **more):
    return GaussianMixture(k, metric=metric, random_state=0, **more).fit(x)


def run_kmeans(x, metric="euclidean", k=2, **more):
    return kmeans(x, k, generator=torch.Generator(), metric=metric, n_init=1, **more)


def run_assign(x, metric="euclidean", k=2):
    return assign(x, torch.eye(k, x.shape[-1] if x.ndim else 1) + 1, metric)


ESTIMATORS = {"KMeans": fit_kmeans, "GaussianMixture": fit_mixture}
FUNCTIONS = {"kmeans": run_kmeans, "assign": run_assign}
by_every_estimator = pytest.mark.parametrize("fit", ESTIMATORS.values(), ids=ESTIMATORS)
by_every_function = pytest.mark.parametrize("run", FUNCTIONS.values(), ids=FUNCTIONS)
by_everything = pytest.mark.parametrize("run", (ESTIMATORS | FUNCTIONS).values(), ids=ESTIMATORS | FUNCTIONS)


def refused(call, *args, match=".", **settings):
    """The call raises a UserError that reads like a sentence."""
    with pytest.raises(UserError, match=match) as caught:
        call(*args, **settings)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value).split()) >= 5


@st.composite
def matrices(draw, min_n=3):
    """Rows of numbers between 0.5 and 2, in some precision, as a tensor."""
    n, d = draw(st.integers(min_n, 8)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return torch.from_numpy(rng.uniform(0.5, 2, (n, d))).to(draw(st.sampled_from(DTYPES)))


def spoilt(x, where, value):
    x = x.clone()
    x.view(-1)[where % x.numel()] = value
    return x


def either(x, as_array):
    """The matrix as an array, where numpy has its precision."""
    return x.numpy() if as_array and x.dtype != torch.bfloat16 else x


not_finite = st.sampled_from([np.nan, np.inf, -np.inf])
anywhere = st.integers(0, 1000)

NO_NUMBERS = {
    "strings": np.array([["a", "b"], ["c", "d"], ["e", "f"]]),
    "objects": np.array([[{}, 1], [2, 3], [4, 5]], dtype=object),
    "functions": [[print, 1.0], [2.0, 3.0]],
    "complex": np.ones((3, 3), complex),
    "none": [[None, 1.0], [2.0, 3.0]],
    "ragged": [[1.0, 2.0], [3.0]],
    "nothing": None,
    "a word": "features",
    "sparse": scipy.sparse.csr_matrix(np.eye(3)),
    "sparse array": scipy.sparse.coo_array(np.eye(3)),
}
NO_TENSORS = {
    "complex tensor": torch.ones(3, 3, dtype=torch.complex64),
    "sparse tensor": torch.eye(3).to_sparse(),
}

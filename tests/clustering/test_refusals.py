"""What cannot be clustered is refused: by a UserError of one sentence, by no other error, and never with a result."""

import numpy as np
import pytest
import scipy.sparse
import torch
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import BetaMixture, GaussianMixture, KMeans
from shoal.clustering.kmeans import assign, kmeans

pytestmark = [
    pytest.mark.usefixtures("without_type_checks"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def fit_kmeans(x, metric="euclidean", k=2, **more):
    return KMeans(k, metric=metric, n_init=1, random_state=0, **more).fit(x)


def fit_mixture(x, metric="euclidean", k=2, **more):
    return GaussianMixture(k, metric=metric, random_state=0, **more).fit(x)


def run_kmeans(x, metric="euclidean", k=2, **more):
    return kmeans(x, k, generator=torch.Generator(), metric=metric, n_init=1, **more)


def run_assign(x, metric="euclidean", k=2):
    return assign(x, torch.eye(k, x.shape[-1] if x.ndim else 1) + 1, metric)


ESTIMATORS = [fit_kmeans, fit_mixture]
EVERYTHING = [*ESTIMATORS, run_kmeans, run_assign]
by_every_estimator = pytest.mark.parametrize("fit", ESTIMATORS)
by_everything = pytest.mark.parametrize("run", EVERYTHING)
ANSWERS = [(fit_kmeans, name) for name in ("predict", "transform", "predict_proba")]
ANSWERS += [(fit_mixture, name) for name in ("predict", "predict_proba", "score_samples", "score", "bic", "aic")]


def rows(dtype=torch.float32, n=6, d=3):
    return (torch.rand(n, d, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype)


def spoilt(value, dtype=torch.float32):
    x = rows(dtype)
    x[4, 1] = value
    return x


@by_every_metric
@by_everything
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(run, metric, value):
    for dtype in DTYPES:
        refused(run, spoilt(value, dtype), metric, match=r"1 of 6 rows of features hold NaN or infinity")
    if run in ESTIMATORS:
        refused(run, spoilt(value).numpy(), metric, match=r"1 of 6 rows of features hold NaN or infinity")


@by_every_metric
@pytest.mark.parametrize(("fit", "method"), ANSWERS)
def test_nan_and_infinity_given_to_a_fitted_model(fit, metric, method):
    call = getattr(fit(rows(), metric), method)
    for x in (spoilt(np.nan), spoilt(np.inf), spoilt(-np.inf).numpy()):
        refused(call, x, match=r"1 of 6 rows of features hold NaN or infinity")


@by_everything
def test_zero_rows_have_no_cosine(run):
    x = rows()
    x[2] = 0
    refused(run, x, "cosine", match="a row of features is zero and has no cosine")


@pytest.mark.parametrize(("fit", "method"), ANSWERS)
def test_zero_rows_have_no_cosine_to_a_fitted_model(fit, method):
    x = rows()
    call = getattr(fit(x, "cosine"), method)
    x[2] = 0
    refused(call, x, match="a row of features is zero and has no cosine")


@by_everything
@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2), (3, 0)])
def test_tensors_that_are_no_matrices(run, shape):
    refused(run, torch.ones(shape))


@pytest.mark.parametrize("run", [fit_kmeans, fit_mixture, run_kmeans])
def test_no_rows(run):
    refused(run, torch.zeros(0, 3))


NOT_NUMBERS = {
    "strings": np.array([["a", "b"], ["c", "d"], ["e", "f"]]),
    "objects": np.array([[{}, 1], [2, 3], [4, 5]], dtype=object),
    "complex": np.ones((3, 3), complex),
    "none": [[None, 1.0], [2.0, 3.0]],
    "ragged": [[1.0, 2.0], [3.0]],
    "sparse": scipy.sparse.csr_matrix(np.eye(3)),
    "sparse array": scipy.sparse.coo_array(np.eye(3)),
    "complex tensor": torch.ones(3, 3, dtype=torch.complex64),
    "sparse tensor": torch.eye(3).to_sparse(),
}
NOT_MATRICES = {"nothing": None, "a word": "features", "no rows": np.ones((0, 2)), "flat": np.ones(3)}


@by_every_estimator
@pytest.mark.parametrize("x", (NOT_NUMBERS | NOT_MATRICES).values(), ids=NOT_NUMBERS | NOT_MATRICES)
def test_what_is_no_matrix_of_real_numbers(fit, x):
    refused(fit, x)
    refused(fit(torch.eye(3)).predict, x)


@pytest.mark.parametrize("run", [run_kmeans, run_assign])
@pytest.mark.parametrize("name", ["complex tensor", "sparse tensor"])
def test_functions_of_what_is_no_matrix_of_real_numbers(run, name):
    refused(run, NOT_NUMBERS[name])


@by_every_estimator
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_whole_numbers_are_numbers(fit, dtype):
    x = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]])
    whole, same = fit(x.to(dtype)), fit(x.float())
    torch.testing.assert_close(whole.predict(x.to(dtype)), same.predict(x.float()))


@pytest.mark.parametrize("value", [1e200, 1e308])
def test_rows_too_far_from_a_mixture(value):
    model = fit_mixture(torch.eye(3, dtype=torch.float64))
    for method in ("predict", "predict_proba", "score_samples", "score"):
        refused(getattr(model, method), torch.tensor([[value, 0.0, 0.0]], dtype=torch.float64), match="overflow")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.001, -1e-9])
def test_values_outside_a_beta_mixtures_range(value):
    values = torch.tensor([0.1, value, 0.9], dtype=torch.float64)
    for x in (values, values[:, None], values.numpy()):
        refused(BetaMixture().fit, x, match=r"1 of 3 (rows|values)")


@pytest.mark.parametrize("name", ["strings", "ragged", "sparse"])
def test_a_beta_mixture_of_what_is_no_numbers(name):
    refused(BetaMixture().fit, NOT_NUMBERS[name])


@pytest.mark.parametrize("run", [fit_kmeans, fit_mixture, run_kmeans])
@pytest.mark.parametrize("k", [7, 10**9, 0, -3])
def test_more_clusters_than_rows_or_none(run, k):
    why = "must be a whole number, at least 1" if k < 1 else "is more than there are rows: n_samples=6 should be >= n_"
    refused(run, rows(), k=k, match=rf"={k} {why}")


STARTS = [(fit_kmeans, "init"), (fit_mixture, "means_init"), (run_kmeans, "init")]


@pytest.mark.parametrize(("run", "name"), STARTS)
def test_starts_of_another_shape_or_without_a_direction(run, name):
    for start in (torch.ones(3, 3), torch.ones(2, 2), torch.ones(0, 3), torch.ones(2, 3, 1), torch.ones(6)):
        refused(
            run,
            rows(),
            **{name: start},
            match=r"should have the shape of \(2, 3\)|of the initial .*: give \(2, 3\), one",
        )
    for value in (np.nan, np.inf):
        refused(run, rows(), **{name: rows()[:2] * value}, match=f"{name} holds NaN, infinity or")
    refused(run, rows(), "cosine", **{name: torch.eye(2, 3) * torch.tensor([[1.0], [0.0]])}, match="a zero row")


@pytest.mark.parametrize(("fit", "name"), STARTS[:2])
@pytest.mark.parametrize("what", NOT_NUMBERS)
def test_starts_that_are_no_numbers(fit, name, what):
    refused(fit, torch.eye(3), k=3, **{name: NOT_NUMBERS[what]})


@pytest.mark.parametrize(
    "centers", [torch.ones(2, 2), torch.ones(0, 3), torch.ones(3), torch.zeros(2, 3), torch.full((2, 3), torch.nan)]
)
def test_centres_of_another_shape_or_without_a_direction(centers):
    refused(assign, torch.ones(4, 3), centers, "cosine", match="[cC]ent(er|re)s")


def test_a_read_only_start_is_no_reason_to_warn():
    frozen = np.eye(3)
    frozen.flags.writeable = False
    fit_mixture(frozen, means_init=frozen[:2])


@pytest.mark.parametrize(
    "settings",
    [
        *({"tol": value} for value in (-1.0, np.nan, "small", None, True)),
        *({"k": value} for value in (2.5, 3.0, "3", True, None)),
        *({"n_init": value} for value in ("many", 1.5, 0)),
        {"algorithm": "full"},
        {"init": None},
    ],
)
def test_settings_of_kmeans_that_mean_nothing(settings):
    settings = {"k": 2, "n_init": 1} | settings
    refused(lambda: KMeans(settings.pop("k"), **settings).fit(torch.eye(5)))


@pytest.mark.parametrize("weights", [[-1.0] * 5, [np.nan] * 5, [0.0] * 5, [1.0] * 4, [["a"]]])
def test_weights_that_mean_nothing(weights):
    refused(run_kmeans, torch.eye(5), weights=weights, match="sample_weight")
    refused(KMeans(2).fit, torch.eye(5), None, weights, match="sample_weight")


def test_whole_weights_count_as_numbers():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    found, same = (run_kmeans(x, weights=torch.ones(200, dtype=d)) for d in (torch.int64, torch.float32))
    assert torch.equal(found.labels, same.labels)

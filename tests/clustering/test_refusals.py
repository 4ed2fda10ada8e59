"""What cannot be clustered is refused: by a UserError of one sentence, by no other error, and never with a result."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.clustering.refusing import (
    DTYPES,
    NO_NUMBERS,
    NO_TENSORS,
    anywhere,
    by_every_estimator,
    by_every_function,
    by_every_metric,
    by_everything,
    either,
    fit_kmeans,
    fit_mixture,
    matrices,
    not_finite,
    quickly,
    refused,
    run_kmeans,
    spoilt,
)

from shoal.clustering import BetaMixture

pytestmark = [
    pytest.mark.usefixtures("without_type_checks"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@by_every_metric
@by_every_estimator
@quickly
@given(x=matrices(), where=anywhere, value=not_finite, as_array=st.booleans())
def test_fits_to_nan_and_infinity(fit, metric, x, where, value, as_array):
    refused(fit, either(spoilt(x, where, value), as_array), metric, match=r"1 of \d rows of features hold NaN or inf")


@by_every_metric
@by_every_function
@quickly
@given(x=matrices(), where=anywhere, value=not_finite)
def test_functions_of_nan_and_infinity(run, metric, x, where, value):
    refused(run, spoilt(x, where, value), metric, match=r"1 of \d rows of features hold NaN or infinity")


TELLING = [(fit_kmeans, "predict"), (fit_kmeans, "transform")]
TELLING += [(fit_mixture, name) for name in ("predict", "predict_proba", "score_samples", "score", "bic", "aic")]
by_every_answer = pytest.mark.parametrize(("fit", "method"), TELLING)


@by_every_answer
@by_every_metric
@quickly
@given(x=matrices(), where=anywhere, value=not_finite, as_array=st.booleans())
def test_fitted_models_of_nan_and_infinity(fit, metric, method, x, where, value, as_array):
    call = getattr(fit(x, metric), method)
    refused(call, either(spoilt(x, where, value), as_array), match=r"1 of \d rows of features hold NaN or infinity")


@by_everything
@quickly
@given(x=matrices(), where=anywhere)
def test_zero_rows_have_no_cosine(run, x, where):
    x[where % len(x)] = 0
    refused(run, x, "cosine", match="a row of features is zero and has no cosine")


@by_every_answer
@quickly
@given(x=matrices(), where=anywhere)
def test_zero_rows_have_no_cosine_to_a_fitted_model(fit, method, x, where):
    call = getattr(fit(x, "cosine"), method)
    x[where % len(x)] = 0
    refused(call, x, match="a row of features is zero and has no cosine")


@by_every_metric
@by_everything
@quickly
@given(n=st.integers(2, 4), dtype=st.sampled_from(DTYPES))
def test_no_columns(run, metric, n, dtype):
    refused(run, torch.zeros(n, 0, dtype=dtype), metric)


@by_every_metric
@pytest.mark.parametrize("run", [fit_kmeans, fit_mixture, run_kmeans])
@quickly
@given(d=st.integers(1, 4), dtype=st.sampled_from(DTYPES))
def test_no_rows(run, metric, d, dtype):
    refused(run, torch.zeros(0, d, dtype=dtype), metric)


@quickly
@given(shape=st.sampled_from([(0, 2), (2, 0), (0, 0), (0,), (3,), (2, 2, 2), ()]))
@by_every_estimator
def test_arrays_that_are_no_matrices(fit, shape):
    refused(fit, np.ones(shape))


@by_everything
@quickly
@given(shape=st.sampled_from([(), (3,), (2, 2, 2), (2, 2, 2, 2)]), dtype=st.sampled_from(DTYPES))
def test_tensors_that_are_no_matrices(run, shape, dtype):
    refused(run, torch.ones(shape, dtype=dtype))


@by_every_metric
@by_every_estimator
@pytest.mark.parametrize("x", (NO_NUMBERS | NO_TENSORS).values(), ids=NO_NUMBERS | NO_TENSORS)
def test_what_is_no_matrix_of_real_numbers(fit, metric, x):
    refused(fit, x, metric)
    model = fit(torch.eye(3), metric)
    refused(model.predict, x)


@by_every_function
@pytest.mark.parametrize("x", NO_TENSORS.values(), ids=NO_TENSORS)
def test_functions_of_what_is_no_matrix_of_real_numbers(run, x):
    refused(run, x)


@by_every_metric
@by_every_estimator
@quickly
@given(data=st.data())
def test_whole_numbers_are_numbers(fit, metric, data):
    dtype = data.draw(st.sampled_from([torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64]))
    values = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=2), min_size=2, max_size=6))
    x = torch.tensor([[1, *row] for row in values])
    whole, same = fit(x.to(dtype), metric), fit(x.float(), metric)
    torch.testing.assert_close(whole.predict(x.to(dtype)), same.predict(x.float()))
    whole, same = fit(x.to(dtype).numpy(), metric), fit(x.double().numpy(), metric)
    np.testing.assert_array_equal(whole.predict(x.to(dtype).numpy()), same.predict(x.double().numpy()))
    whole, same = run_kmeans(x.to(dtype), metric), run_kmeans(x.float(), metric)
    torch.testing.assert_close(whole.centers, same.centers)


@pytest.mark.parametrize("value", [1e200, 1e308])
def test_rows_too_far_from_a_mixture(value):
    model = fit_mixture(torch.eye(3, dtype=torch.float64))
    for method in ("predict", "predict_proba", "score_samples", "score"):
        refused(getattr(model, method), torch.tensor([[value, 0.0, 0.0]], dtype=torch.float64), match="overflow")


@quickly
@given(n=st.integers(1, 9), where=anywhere, value=st.one_of(not_finite, st.floats(1.001, 1e9), st.floats(-1e9, -1e-9)))
def test_values_outside_a_beta_mixtures_range(n, where, value):
    values = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    values[where % n] = value
    for x in (values, values[:, None], values.numpy()):
        refused(BetaMixture().fit, x, match=rf"1 of {n} (rows|values)")


@pytest.mark.parametrize("x", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_a_beta_mixture_of_what_is_no_numbers(x):
    refused(BetaMixture().fit, x)

"""scikit-learn's checks of the estimators that cluster features."""

import pytest
from sklearn.utils.estimator_checks import check_estimator

from shoal.clustering import TEMI, UMAPHDBSCAN, UMAPKMeans

ZERO_ROWS = {"check_estimators_dtypes": "zero rows"}  # which have no direction


@pytest.mark.usefixtures("without_type_checks", "no_umap")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning", "ignore:Number of distinct clusters")
@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    "estimator",
    [UMAPKMeans(3), UMAPHDBSCAN(), TEMI(3, n_heads=2, epochs=6)],
    ids=["UMAPKMeans", "UMAPHDBSCAN", "TEMI"],
)
def test_scikit_learns_checks(estimator, metric):
    expected = ZERO_ROWS if metric == "cosine" else {}
    results = check_estimator(estimator.set_params(metric=metric), expected_failed_checks=expected)
    assert len(results) > 40
    others = {result["check_name"] for result in results if result["status"] != "passed"}
    assert others <= {"check_array_api_input", *expected}

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tests.clustering.refusing import refused

from shoal.clustering import LinearHead
from shoal.clustering.linear import SHRINKAGE


@pytest.fixture
def labelled():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    return torch.randn(120, 6, generator=generator) + 2 * torch.eye(6)[labels] + 50, labels


@pytest.mark.parametrize("as_array", [False, True])
def test_it_is_scikit_learns_discriminant_with_equal_classes(labelled, as_array):
    x, y = labelled
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE, priors=[1 / 3] * 3)
    # There each column is standardised before Σ is shrunk: of columns of one scale it is the same.
    z = (x - x.mean(0)).double().numpy()
    within = z - np.stack([z[y == c].mean(0) for c in range(3)])[y]
    scaled = x / torch.from_numpy(within.std(0)).float()
    reference.fit(scaled.double().numpy(), y.numpy())
    given = (scaled.double().numpy(), y.numpy()) if as_array else (scaled, y)
    head = LinearHead(3, metric="euclidean").fit(*given)
    expected = reference.predict_proba(scaled.double().numpy())
    np.testing.assert_allclose(np.asarray(head.predict_proba(given[0])), expected, atol=2e-3)
    assert (np.asarray(head.labels_) == expected.argmax(1)).all()


def test_a_class_without_rows_is_never_predicted(labelled):
    x, y = labelled
    head = LinearHead(5, metric="cosine").fit(x, torch.where(y == 1, -1, y))
    assert set(head.labels_.tolist()) == {0, 2}
    assert torch.isfinite(head.predict_proba(x)).all()


def test_refusals(labelled):
    x, y = labelled
    refused(LinearHead(3).fit, x, y[:5], match="clusters below 3")
    refused(LinearHead(2).fit, x, y, match="clusters below 2")
    refused(LinearHead(2).fit, x, torch.full_like(y, -1), match="from 0 on")

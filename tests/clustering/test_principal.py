"""Principal components of standardised columns against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from shoal.clustering.rows import Rows
from shoal.clustering.temi.heads import principal_components


def data(n=300, d=40):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, 5)) @ rng.normal(size=(5, d)) + 0.3 * rng.normal(size=(n, d)) + 10).astype(np.float32)


@pytest.mark.parametrize("most", [4, 40, 100])
def test_they_are_scikit_learns_but_for_signs(most):
    x = data()
    rows = Rows(torch.from_numpy(x), "euclidean")
    found = principal_components(rows, most).of(rows)
    peer = PCA(min(most, 40)).fit_transform(StandardScaler().fit_transform(x))
    np.testing.assert_allclose(found.square().mean(0), (peer**2).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found[:, :4].abs(), np.abs(peer[:, :4]), atol=1e-3)


def test_a_constant_column_stays_out_of_the_way():
    x = torch.from_numpy(data())
    x[:, 3] = 0.1
    rows = Rows(x, "euclidean")
    components = principal_components(rows, 8)
    assert components.scale[3] == 1
    assert components.axes[3].abs().max() < 1e-3


def test_more_columns_than_rows():
    rows = Rows(torch.from_numpy(data(n=6)), "cosine")
    found = principal_components(rows, 10).of(rows)
    assert found.shape == (6, 10)
    assert found.isfinite().all()

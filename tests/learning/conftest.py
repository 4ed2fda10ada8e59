import pytest
import torch

from shoal.learning import Graph


@pytest.fixture(scope="session")
def blobs():
    """Four groups of 60 rows in 20 columns, their true groups, a clustering that errs about a sixth, a graph."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(240) % 4
    centers = 2.5 * torch.randn(4, 20, generator=generator)
    features = centers[truth] + 1.5 * torch.randn(240, 20, generator=generator)
    labels = truth.clone()
    labels[::6] = (labels[::6] + 1) % 4
    return features, truth, labels, Graph.build(features, "euclidean")

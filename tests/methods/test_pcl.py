"""What the prototypes' temperatures are where clusters are degenerate; the rest is held to published values."""

import pytest
import torch
from tests.contract.examples import B, N, batch, method

from shoal.methods.pcl import LEAST, concentration
from shoal.types import Clustering


def test_clusters_of_copies_get_a_temperature_that_does_not_blow_up():
    labels = torch.arange(10).repeat_interleave(5)
    distances = torch.where(labels < 3, 0.0, 0.3 + 0.01 * labels)
    phi = concentration(distances, labels, 10, 0.1)
    assert phi.min() > 0.9 * LEAST * 0.1
    torch.testing.assert_close(phi.mean(), torch.tensor(0.1))


def test_without_any_spread_all_temperatures_are_the_same():
    phi = concentration(torch.zeros(12), torch.arange(12) % 4, 4, 0.5)
    torch.testing.assert_close(phi, torch.full((4,), 0.5))


def test_ordinary_clusters_are_left_to_the_percentiles():
    labels = torch.arange(10).repeat_interleave(5)
    distances = 0.2 + 0.05 * labels
    sums = torch.zeros(10, dtype=torch.float64).index_add(0, labels, distances.double())
    phi = sums / 5 / torch.tensor(15.0, dtype=torch.float64).log()
    phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
    torch.testing.assert_close(concentration(distances, labels, 10, 0.1), (0.1 * phi / phi.mean()).float())


def test_images_of_no_cluster_do_not_count():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1])
    distances = torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, torch.nan, torch.nan])
    expected = concentration(distances[:6], labels[:6], 2, 0.1)
    torch.testing.assert_close(concentration(distances, labels, 2, 0.1), expected)


def test_empty_clusters_change_no_temperature():
    labels = torch.arange(10).repeat_interleave(5)
    distances = 0.2 + 0.05 * labels
    alone = concentration(distances, labels, 10, 0.1)
    among_empty = concentration(distances, 4 * labels, 40, 0.1)
    torch.testing.assert_close(among_empty[::4], alone)
    assert torch.isfinite(among_empty).all()


def test_negatives_are_prototypes_that_have_images():
    pcl = method("pcl")
    of_all = torch.tensor([0, 2, 2, 5, 7, 7, 7, -1])
    clustering = Clustering(of_all, torch.zeros(9, 8), torch.zeros(8))
    drawn, n_absent = pcl._draw_negatives(of_all[[1, 3, 7]], clustering)
    assert set(drawn.tolist()) == {0, 7}
    assert n_absent == 2
    _, n_absent = pcl._draw_negatives(of_all, clustering)
    assert n_absent == 0


@pytest.mark.parametrize("name", ["pcl", "pcl, both ways", "propos", "propos, queue"])
def test_losses_do_not_depend_on_empty_clusters(name):
    """Twice the clusters, all of those added empty and on the centres of others, as k-means leaves them."""
    terms = []
    for more in (0, 1):
        chosen = method(name)
        generator = torch.Generator().manual_seed(1)
        found = []
        for k in chosen.granularities:
            centers = torch.nn.functional.normalize(torch.randn(k, 8, generator=generator), dim=1)
            # The last cluster has no image of the batch, so that there is a negative.
            labels = torch.randint(k - 1, (N,), generator=generator)
            labels[~torch.isin(torch.arange(N), batch().index)] = k - 1
            distances = torch.rand(N, generator=generator)
            found.append(Clustering(labels, torch.cat([centers] * (1 + more)), distances))
        terms.append(chosen(batch(), found))
    assert len(batch().index) == B < N
    assert terms[0].keys() == terms[1].keys()
    for key in terms[0]:
        torch.testing.assert_close(terms[1][key], terms[0][key], rtol=2e-3 if key == "psl" else 1e-5, atol=1e-6)
